-- The schema belongs to the extension: made here, dropped with it. One that is already there is someone else's.
DO $$
BEGIN
    IF pg_catalog.to_regnamespace('threadline') IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_schema',
            MESSAGE = 'schema "threadline" already exists and does not belong to this extension',
            DETAIL = 'Another audit library may keep its tables there.',
            HINT = 'Rename it first: ALTER SCHEMA threadline RENAME TO threadline_old;';
    END IF;
    IF pg_catalog.to_regclass('public.audit_changes') IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = 'table "public.audit_changes" belongs to another audit system and is left alone',
            HINT = 'Name ours in full, threadline.audit_changes, or put threadline before public: SET search_path = threadline, public;';
    END IF;
END
$$;

CREATE SCHEMA threadline;

COMMENT ON SCHEMA threadline IS
    'threadline_forensics: row-change capture, time travel and incident forensics. Nothing is granted here by default but what applications call to say who they are; see threadline.audit_grant().';

-- Says the same of all overloads of a function; only while this script runs.
CREATE FUNCTION threadline.describe(function_name text, arguments integer, description text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    overload regprocedure;
BEGIN
    FOR overload IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'threadline'::regnamespace AND p.proname = describe.function_name AND p.pronargs = describe.arguments
    LOOP
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', overload, describe.description);
    END LOOP;
END
$$;

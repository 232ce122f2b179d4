DROP FUNCTION threadline.describe(text, integer, text);

-- Last: from here on nobody but the owner has anything that threadline.access_list() does not give to all.
-- Default privileges of this database may have given more than PostgreSQL's own do.
SELECT threadline.revoke_all(pg_catalog.format('TABLE threadline.%I', c.relname), c.relacl, c.relowner)
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = 'threadline'::regnamespace AND c.relkind IN ('r', 'p', 'v');

SELECT threadline.revoke_all(pg_catalog.format('SEQUENCE threadline.%I', c.relname), c.relacl, c.relowner)
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = 'threadline'::regnamespace AND c.relkind = 'S';

SELECT threadline.revoke_all(pg_catalog.format('ROUTINE %s', p.oid::regprocedure), coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner)
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = 'threadline'::regnamespace;

SELECT threadline.revoke_all('SCHEMA threadline', n.nspacl, n.nspowner)
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = 'threadline';

GRANT USAGE ON SCHEMA threadline TO PUBLIC;

DO $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN
        SELECT p.oid
        FROM threadline.access_list() AS a
        JOIN pg_catalog.pg_proc AS p ON p.pronamespace = 'threadline'::regnamespace AND p.proname = a.name
        WHERE a.level = 'public'
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO PUBLIC', routine);
    END LOOP;
END
$$;

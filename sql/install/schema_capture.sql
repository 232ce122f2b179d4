-- Whole schemas under capture, and by event trigger the tables that appear in them later. The event triggers are made
-- with the first such schema and dropped with the last, and are no members of the extension: pg_dump restores event
-- triggers last of all, so that a restored copy goes on by itself and nothing is captured half-way through the
-- restore, while whether a member is enabled would not be dumped at all. DROP EXTENSION … CASCADE takes them along.

-- The registered schema that a schema is. After a rename that nobody watched its number tells.
CREATE FUNCTION threadline.registered_schema(schema_id oid) RETURNS threadline.future_schema
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.*
    FROM threadline.future_schema AS f
    JOIN pg_namespace AS n ON n.oid = registered_schema.schema_id
    WHERE f.schema_name = n.nspname
       OR (f.schema_oid = n.oid AND NOT EXISTS (SELECT FROM pg_namespace AS o WHERE o.nspname = f.schema_name))
    ORDER BY (f.schema_name = n.nspname) DESC
    LIMIT 1
$$;

CREATE FUNCTION threadline.expected_uncovered_reason(target oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT e.reason
    FROM threadline.expected_uncovered AS e
    JOIN pg_class AS c ON c.oid = e.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE e.relation = expected_uncovered_reason.target
      AND (e.origin = threadline.origin() OR (e.schema_name = n.nspname AND e.table_name = c.relname))
$$;

-- Tables of a schema that can be captured and are not, those above others first. Without switched_off, not those that
-- audit_disable took out: only those given up for the lack of a key, or as a part of another table.
CREATE FUNCTION threadline.capturable_tables(schema_id oid, except_tables name[], switched_off boolean) RETURNS SETOF regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid::regclass
    FROM pg_class AS c
    WHERE c.relnamespace = capturable_tables.schema_id AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      AND c.relname <> ALL (capturable_tables.except_tables)
      AND EXISTS (SELECT FROM pg_index AS i
                  WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident) AND threadline.is_usable_key(i))
      AND NOT EXISTS (SELECT FROM pg_depend AS d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
      AND NOT EXISTS (SELECT FROM threadline.captured_table AS t
                      WHERE t.table_id = threadline.captured_id(c.oid)
                        AND (t.enabled
                             OR NOT capturable_tables.switched_off
                                AND NOT EXISTS (SELECT FROM threadline.gap AS g
                                                WHERE g.table_id = t.table_id AND g.until_at IS NULL AND g.detail ?| '{key,captured_as}')))
      AND threadline.expected_uncovered_reason(c.oid) IS NULL
    ORDER BY (SELECT count(*) FROM pg_partition_ancestors(c.oid)), c.relname
$$;

-- Puts a table under capture on behalf of its schema, unless it is by now, through a table above it. What is no table
-- to be captured is left out, and audit_coverage() says why.
CREATE FUNCTION threadline.capture_for_schema(target regclass) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF threadline.captured_ancestor(capture_for_schema.target) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM threadline.enable_capture(capture_for_schema.target, NULL, NULL, NULL, NULL, true, NULL, for_schema => true);
    RETURN true;
EXCEPTION WHEN wrong_object_type OR invalid_table_definition OR feature_not_supported THEN
    RETURN false;
END
$$;

-- DDL goes on whatever happens here.
CREATE FUNCTION threadline.capture_after_ddl(target regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM threadline.capture_for_schema(capture_after_ddl.target);
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING
        ERRCODE = SQLSTATE,
        MESSAGE = format('table %s could not be put under capture: %s', threadline.qualified_name(capture_after_ddl.target), SQLERRM),
        HINT = format('SELECT threadline.audit_enable(%L);', threadline.qualified_name(capture_after_ddl.target));
END
$$;

-- A table captured for its schema whose key is gone: goes on with the primary key it has now, or is given up. Its
-- writes would fail otherwise, and nobody asked for that by name.
CREATE FUNCTION threadline.follow_lost_key(target regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t threadline.captured_table;
BEGIN
    SELECT * INTO t FROM threadline.captured_table AS c
    WHERE c.table_id = threadline.captured_id(follow_lost_key.target) AND c.enabled AND c.by_schema;
    IF NOT FOUND OR EXISTS (
        SELECT FROM pg_index AS i
        WHERE i.indrelid = follow_lost_key.target AND i.indisprimary AND i.indisvalid AND i.indimmediate
          AND (SELECT array_agg(k.attnum ORDER BY k.n)
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) WHERE k.n <= i.indnkeyatts)
              = threadline.followed_key(t.table_id, follow_lost_key.target, t.key_columns, t.key_attnums)
    ) THEN
        RETURN;
    END IF;
    BEGIN
        PERFORM threadline.enable_capture(follow_lost_key.target, NULL, NULL, NULL, NULL, true, NULL, for_schema => true);
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        -- Without a key, or with one that cannot be used.
        NULL;
    END;
    PERFORM threadline.drop_capture(follow_lost_key.target, jsonb_build_object('key', 'dropped', 'key_columns', to_jsonb(t.key_columns)));
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING
        ERRCODE = SQLSTATE,
        MESSAGE = format('capture of table %s could not follow the loss of its key: %s', threadline.qualified_name(follow_lost_key.target), SQLERRM),
        HINT = format('SELECT threadline.audit_disable(%L);', threadline.qualified_name(follow_lost_key.target));
END
$$;

-- A captured table that is no more: its identity ends here, another of the same name is another table.
CREATE FUNCTION threadline.end_identity(dropped_id integer, since timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE threadline.captured_table AS t
    SET relation = 0, origin = threadline.origin(), enabled = false, disabled_at = coalesce(t.disabled_at, clock_timestamp())
    WHERE t.table_id = end_identity.dropped_id;
    DELETE FROM threadline.known_partition AS k WHERE k.table_id = end_identity.dropped_id;
    INSERT INTO threadline.gap (table_id, reason, since_at, detail)
    SELECT end_identity.dropped_id, 'trigger_dropped', end_identity.since, '{"table": "dropped"}'
    WHERE NOT EXISTS (SELECT FROM threadline.gap AS g WHERE g.table_id = end_identity.dropped_id AND g.until_at IS NULL);
END
$$;

-- Notes what a command did to the triggers of a table, or of the one it is a partition of. Most do nothing to them,
-- and leave nothing locked.
CREATE FUNCTION threadline.witness_triggers(target regclass) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT threadline.observe_capture(t.table_id, witnessed => true)
    FROM threadline.captured_table AS t
    WHERE t.enabled AND t.table_id IN (threadline.captured_id(witness_triggers.target),
                                       threadline.captured_id(threadline.captured_ancestor(witness_triggers.target)))
      AND (EXISTS (SELECT FROM threadline.gaps_now(t.table_id, t.relation, t.options @> '{"fires": "always"}'))
           OR EXISTS (SELECT FROM threadline.gap AS g WHERE g.table_id = t.table_id AND g.until_at IS NULL))
$$;

-- Runs after DDL, with the extension owner's rights whoever typed it.
CREATE FUNCTION threadline.after_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
SET lock_timeout = '1s'
AS $$
DECLARE
    command  record;
    wanted   threadline.future_schema;
    root     regclass;
    target   regclass;
BEGIN
    IF TG_TAG = 'ALTER SCHEMA' THEN
        UPDATE threadline.future_schema AS f SET schema_name = n.nspname
        FROM pg_namespace AS n
        WHERE n.oid = f.schema_oid AND n.nspname <> f.schema_name
          AND NOT EXISTS (SELECT FROM threadline.future_schema AS o WHERE o.schema_name = n.nspname);
        RETURN;
    END IF;
    FOR command IN
        SELECT DISTINCT c.oid::regclass AS target, c.relnamespace, c.relkind
        FROM pg_event_trigger_ddl_commands() AS d
        LEFT JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
        JOIN pg_class AS c ON c.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE g.tgrelid END
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT d.in_extension
    LOOP
        root := (SELECT a.relid
                 FROM pg_partition_ancestors(command.target) WITH ORDINALITY AS a (relid, height)
                 JOIN threadline.captured_table AS t ON t.table_id = threadline.captured_id(a.relid) AND t.enabled
                 ORDER BY a.height DESC LIMIT 1);
        IF root IS NOT NULL AND TG_TAG IN ('CREATE TABLE', 'ALTER TABLE') THEN
            -- First, since what comes after it is seen by the event triggers in its turn.
            PERFORM threadline.witness_partitions(root);
            IF command.relkind = 'p' THEN
                PERFORM threadline.take_over_partitions(root);
            END IF;
        END IF;
        PERFORM threadline.witness_triggers(command.target);
        CONTINUE WHEN TG_TAG NOT IN ('CREATE TABLE', 'CREATE SCHEMA', 'ALTER TABLE');
        -- The server clones the row trigger to a new partition, but not this one.
        IF root IS NOT NULL THEN
            PERFORM threadline.arm_partitions(root);
        END IF;
        wanted := threadline.registered_schema(command.relnamespace);
        CONTINUE WHEN wanted.schema_name IS NULL;
        FOR target IN
            SELECT t.relation
            FROM threadline.capturable_tables(command.relnamespace, wanted.except_tables, false) AS t (relation)
            -- A detached partition is not named by the command that detached it.
            WHERE t.relation = command.target OR (command.relkind = 'p' AND TG_TAG = 'ALTER TABLE')
        LOOP
            PERFORM threadline.capture_after_ddl(target);
        END LOOP;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING
        ERRCODE = SQLSTATE,
        MESSAGE = format('threadline could not look at what %s changed: %s', TG_TAG, SQLERRM),
        HINT = 'SELECT * FROM threadline.audit_coverage() WHERE status = ''uncovered'';';
END
$$;

CREATE FUNCTION threadline.after_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
SET lock_timeout = '1s'
AS $$
DECLARE
    dropped record;
    target  regclass;
BEGIN
    FOR dropped IN
        SELECT DISTINCT d.object_type, d.objid, d.address_names
        FROM pg_event_trigger_dropped_objects() AS d
        WHERE d.object_type IN ('table', 'table column', 'table constraint', 'trigger') AND NOT d.is_temporary
    LOOP
        IF dropped.object_type = 'table' THEN
            PERFORM threadline.end_identity(t.table_id, clock_timestamp())
            FROM threadline.captured_table AS t
            WHERE t.relation = dropped.objid AND t.origin = threadline.origin();
            -- One whose rows before_drop() did not record.
            PERFORM threadline.observe_capture(k.table_id, witnessed => true)
            FROM (SELECT DISTINCT p.table_id FROM threadline.known_partition AS p WHERE p.relation = dropped.objid) AS k;
            DELETE FROM threadline.expected_uncovered AS e WHERE e.relation = dropped.objid AND e.origin = threadline.origin();
            CONTINUE;
        END IF;
        target := to_regclass(format('%I.%I', dropped.address_names[1], dropped.address_names[2]));
        CONTINUE WHEN target IS NULL;
        PERFORM threadline.witness_triggers(target);
        PERFORM threadline.follow_lost_key(target);
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING
        ERRCODE = SQLSTATE,
        MESSAGE = format('threadline could not look at what %s dropped: %s', TG_TAG, SQLERRM),
        HINT = 'SELECT threadline.audit_maintain();';
END
$$;

-- Makes or drops the event triggers, as there are registered schemas or not.
CREATE FUNCTION threadline.set_event_triggers() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted CONSTANT boolean := EXISTS (SELECT FROM threadline.future_schema);
    made   record;
BEGIN
    FOR made IN
        SELECT w.name, w.definition, e.evtenabled
        FROM (VALUES
            ('threadline_after_ddl', 'ON ddl_command_end WHEN TAG IN (''CREATE TABLE'', ''CREATE SCHEMA'', ''ALTER TABLE'', ''ALTER SCHEMA'', ''CREATE TRIGGER'', ''ALTER TRIGGER'') EXECUTE FUNCTION threadline.after_ddl()'),
            ('threadline_after_drop', 'ON sql_drop EXECUTE FUNCTION threadline.after_drop()'),
            ('threadline_before_drop', 'ON ddl_command_start WHEN TAG IN (''DROP TABLE'') EXECUTE FUNCTION threadline.before_drop()')
        ) AS w (name, definition)
        LEFT JOIN pg_event_trigger AS e ON e.evtname = w.name
    LOOP
        IF NOT wanted THEN
            IF made.evtenabled IS NOT NULL THEN
                EXECUTE format('DROP EVENT TRIGGER %I', made.name);
            END IF;
            CONTINUE;
        END IF;
        IF made.evtenabled IS NULL THEN
            EXECUTE format('CREATE EVENT TRIGGER %I %s', made.name, made.definition);
        END IF;
        -- A table made while session_replication_role is replica is one to capture, too.
        IF made.evtenabled IS DISTINCT FROM 'A' THEN
            EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', made.name);
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION threadline.enable_schema(schema_name name, future boolean, except_tables name[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schema_id CONSTANT oid := to_regnamespace(quote_ident(enable_schema.schema_name));
    except_   CONSTANT name[] := coalesce(enable_schema.except_tables, '{}');
    unknown   name;
    target    regclass;
BEGIN
    IF schema_id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN enable_schema.schema_name IS NULL THEN 'null_value_not_allowed' ELSE 'invalid_schema_name' END,
            MESSAGE = CASE WHEN enable_schema.schema_name IS NULL THEN 'no schema was named'
                           ELSE format('schema "%s" does not exist', enable_schema.schema_name) END,
            HINT = 'SELECT * FROM threadline.audit_enable_schema(''public'');';
    END IF;
    IF enable_schema.schema_name IN ('information_schema', 'threadline') OR starts_with(enable_schema.schema_name, 'pg_') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('schema "%s" cannot be put under capture: it is %s', enable_schema.schema_name,
                             CASE enable_schema.schema_name WHEN 'threadline' THEN 'the audit storage' ELSE 'a system schema' END),
            HINT = 'SELECT * FROM threadline.audit_enable_schema(''public'');';
    END IF;
    -- A misspelt exception would record what should not be. With future it may be a table to come.
    SELECT x.name INTO unknown
    FROM unnest(except_) AS x (name)
    WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = schema_id AND c.relname = x.name AND c.relkind IN ('r', 'p', 'f'));
    IF FOUND AND enable_schema.future THEN
        RAISE NOTICE USING MESSAGE = format('except_tables names "%s", of which schema "%s" has no table yet', unknown, enable_schema.schema_name);
    ELSIF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = format('except_tables names "%s", of which schema "%s" has no table', unknown, enable_schema.schema_name),
            HINT = format('Its tables: SELECT table_name FROM threadline.audit_coverage(%L);', enable_schema.schema_name);
    END IF;

    IF enable_schema.future THEN
        INSERT INTO threadline.future_schema AS f (schema_name, schema_oid, except_tables)
        VALUES (enable_schema.schema_name, schema_id, except_)
        ON CONFLICT ON CONSTRAINT future_schema_pkey DO UPDATE
        SET schema_oid = excluded.schema_oid, except_tables = excluded.except_tables;
    ELSE
        DELETE FROM threadline.future_schema AS f WHERE f.schema_name = enable_schema.schema_name;
        IF FOUND THEN
            RAISE NOTICE USING
                MESSAGE = format('new tables of schema "%s" are no longer put under capture by themselves', enable_schema.schema_name),
                HINT = format('SELECT * FROM threadline.audit_enable_schema(%L, future => true);', enable_schema.schema_name);
        END IF;
    END IF;
    PERFORM threadline.set_event_triggers();
    PERFORM threadline.ensure_partitions();
    FOR target IN SELECT * FROM threadline.capturable_tables(schema_id, except_, true) LOOP
        PERFORM threadline.capture_for_schema(target);
    END LOOP;
END
$$;

-- Upkeep of registered schemas: what the event triggers would have done had they been there.
CREATE FUNCTION threadline.capture_missed_tables() RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missed   record;
    captured text[] := '{}';
BEGIN
    UPDATE threadline.future_schema AS f SET schema_oid = n.oid
    FROM pg_namespace AS n WHERE n.nspname = f.schema_name AND n.oid <> f.schema_oid;
    PERFORM threadline.set_event_triggers();
    FOR missed IN
        SELECT t.relation, threadline.qualified_name(t.relation) AS name
        FROM pg_namespace AS n
        CROSS JOIN LATERAL threadline.registered_schema(n.oid) AS f
        CROSS JOIN LATERAL threadline.capturable_tables(n.oid, f.except_tables, false) AS t (relation)
        WHERE f.schema_name IS NOT NULL
    LOOP
        PERFORM threadline.capture_after_ddl(missed.relation);
        IF EXISTS (SELECT FROM threadline.captured_table AS t WHERE t.table_id = threadline.captured_id(missed.relation) AND t.enabled) THEN
            captured := captured || missed.name;
        END IF;
    END LOOP;
    RETURN captured;
END
$$;

-- With the owner's rights, since who owns a schema need not be able to read its tables.
CREATE FUNCTION threadline.captured_in_schema(schema_name name) RETURNS SETOF regclass
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid::regclass
    FROM pg_class AS c
    JOIN threadline.captured_table AS t ON t.table_id = threadline.captured_id(c.oid) AND t.enabled
    WHERE c.relnamespace = to_regnamespace(quote_ident(captured_in_schema.schema_name))
    ORDER BY c.relname
$$;

CREATE FUNCTION threadline.audit_enable_schema(schema_name name, future boolean DEFAULT false, except_tables name[] DEFAULT '{}')
RETURNS SETOF regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM threadline.enable_schema_checked(audit_enable_schema.schema_name, coalesce(audit_enable_schema.future, false),
                                             audit_enable_schema.except_tables);
    RETURN QUERY SELECT * FROM threadline.captured_in_schema(audit_enable_schema.schema_name);
END
$$;
COMMENT ON FUNCTION threadline.audit_enable_schema(name, boolean, name[]) IS
'Puts every table of a schema under capture, as audit_enable(table) does, except those it cannot capture (no usable primary key, temporary, foreign, an extension''s), those named in except_tables and those noted by audit_expect_uncovered; audit_coverage() lists what is left and why. Returns the tables of the schema that are under capture now; partitions are covered by their parents.
future => true also captures tables that appear later, by event trigger: created, moved into the schema, given a primary key, detached from a parent. In the whole database it records the rows that come and go with partitions of captured tables, up to truncate_cap a partition. No DDL statement fails for it. A table captured this way whose key is dropped is taken out of capture instead of refusing writes. future and except_tables are those of the last call; future => false ends it for new tables and leaves captured ones alone.
The caller must own the schema. Errors: 3F000 no such schema, 42501 not the owner, 42809 a system schema, 42P01 except_tables names no table (without future).';

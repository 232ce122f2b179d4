-- Which tables are recorded, which are not, and why.

CREATE FUNCTION threadline.audit_expect_uncovered(target regclass, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named record;
BEGIN
    SELECT n.nspname, c.relname, c.relkind INTO named
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = audit_expect_uncovered.target;
    IF NOT FOUND OR named.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN audit_expect_uncovered.target IS NULL THEN 'null_value_not_allowed'
                           WHEN named.relkind IS NULL THEN 'undefined_table' ELSE 'wrong_object_type' END,
            MESSAGE = CASE WHEN audit_expect_uncovered.target IS NULL THEN 'no table was named'
                           ELSE format('%s is no table', coalesce(threadline.qualified_name(audit_expect_uncovered.target),
                                                                  audit_expect_uncovered.target::oid::text)) END,
            HINT = 'Tables that are not covered: SELECT table_schema, table_name FROM threadline.audit_coverage() WHERE status = ''uncovered'';';
    END IF;
    IF audit_expect_uncovered.reason IS NULL THEN
        DELETE FROM threadline.expected_uncovered AS e WHERE e.relation = audit_expect_uncovered.target;
        RETURN;
    END IF;
    IF btrim(audit_expect_uncovered.reason) = '' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('no reason is given why %I.%I is not covered', named.nspname, named.relname),
            HINT = format('SELECT threadline.audit_expect_uncovered(%L, ''rebuilt every night''); a NULL reason takes it back.',
                          threadline.qualified_name(audit_expect_uncovered.target));
    END IF;
    INSERT INTO threadline.expected_uncovered AS e (relation, origin, schema_name, table_name, reason)
    VALUES (audit_expect_uncovered.target, threadline.origin(), named.nspname, named.relname, audit_expect_uncovered.reason)
    ON CONFLICT ON CONSTRAINT expected_uncovered_pkey DO UPDATE
    SET origin = excluded.origin, schema_name = excluded.schema_name, table_name = excluded.table_name,
        reason = excluded.reason, noted_at = excluded.noted_at, noted_by = excluded.noted_by;
END
$$;
COMMENT ON FUNCTION threadline.audit_expect_uncovered(regclass, text) IS
'Notes that a table, with its partitions, is not under capture on purpose, and why: audit_coverage() then lists it as expected_uncovered, and audit_enable_schema() leaves it out. A NULL reason takes it back. It does not stop capture: see audit_disable(). Errors: 42809 not a table, 42P01 no such table, 22023 an empty reason.';

-- What a table with on_error warn lost since its newest baseline; latest is NULL when nothing.
CREATE FUNCTION threadline.lost_changes(p_table_id integer, OUT changes bigint, OUT latest timestamptz, OUT sqlstates text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sum((g.detail ->> 'changes')::bigint), max(g.until_at), string_agg(DISTINCT g.detail ->> 'sqlstate', ', ')
    FROM threadline.gap AS g
    WHERE g.table_id = lost_changes.p_table_id AND g.reason = 'warn_on_error'
      AND g.until_at > coalesce((SELECT max(b.taken_at) FROM threadline.baseline AS b WHERE b.table_id = g.table_id), '-infinity')
$$;

-- What one table is to capture: the captured table it is or belongs to, what keeps its changes from being recorded
-- (lost), and what else there is to know (notes). Both are lists of {"finding": …, …}.
CREATE FUNCTION threadline.table_coverage()
RETURNS TABLE (relation oid, schema_id oid, root oid, expected text, switched_off timestamptz, lost jsonb, notes jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
    WITH RECURSIVE candidate AS MATERIALIZED (
        SELECT c.oid, c.relkind, c.relpersistence, c.relnamespace, c.relispartition
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
          AND n.nspname NOT IN ('information_schema', 'threadline') AND NOT starts_with(n.nspname, 'pg_')
    ), above AS (
        SELECT c.oid AS relation, c.oid AS upper, c.relispartition, 0 AS height FROM candidate AS c
        UNION ALL
        SELECT a.relation, h.inhparent, c.relispartition, a.height + 1
        FROM above AS a
        JOIN pg_inherits AS h ON h.inhrelid = a.upper
        JOIN pg_class AS c ON c.oid = h.inhparent
        WHERE a.relispartition
    ), captured AS MATERIALIZED (
        SELECT c.oid, t.*
        FROM candidate AS c
        JOIN threadline.captured_table AS t ON t.table_id = threadline.captured_id(c.oid)
    ), defect AS MATERIALIZED (
        SELECT k.oid AS root, f.relation, f.capture, f.state
        FROM captured AS k CROSS JOIN LATERAL threadline.trigger_findings(k.oid, k.options @> '{"fires": "always"}') AS f
        WHERE k.enabled
    ), moved AS MATERIALIZED (
        SELECT k.oid AS root, m.relation, m.state
        FROM captured AS k CROSS JOIN LATERAL threadline.partition_findings(k.table_id, k.oid) AS m
        WHERE k.enabled
    ), placed AS (
        SELECT c.*,
               (SELECT a.upper FROM above AS a JOIN captured AS k ON k.oid = a.upper AND k.enabled
                WHERE a.relation = c.oid ORDER BY a.height DESC LIMIT 1) AS root,
               (SELECT e.reason FROM above AS a CROSS JOIN LATERAL threadline.expected_uncovered_reason(a.upper) AS e (reason)
                WHERE a.relation = c.oid AND e.reason IS NOT NULL ORDER BY a.height LIMIT 1) AS expected
        FROM candidate AS c
    )
    SELECT p.oid, p.relnamespace, p.root, p.expected,
           CASE WHEN p.root IS NULL THEN own.disabled_at END,
           coalesce((
               SELECT jsonb_agg(f.finding ORDER BY f.finding::text)
               FROM (
                   SELECT jsonb_build_object('finding', 'trigger_' || d.state, 'trigger', d.capture, 'table', threadline.qualified_name(d.relation))
                   FROM defect AS d
                   -- A partition lacks what it lacks itself, and what its table lacks for all.
                   WHERE d.root = p.root AND (p.oid = p.root OR d.relation IN (p.oid, p.root))
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'partition_' || m.state, 'partition', coalesce(threadline.qualified_name(m.relation), m.relation::text))
                   FROM moved AS m
                   WHERE m.root = p.root AND (p.oid = p.root OR m.relation = p.oid)
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'no_primary_key')
                   WHERE p.root IS NULL AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = p.oid
                                                        AND (i.indisprimary OR i.indisreplident AND threadline.is_usable_key(i)))
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'deferrable_primary_key')
                   FROM pg_index AS i WHERE p.root IS NULL AND i.indrelid = p.oid AND i.indisprimary AND NOT i.indimmediate
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'foreign_partition', 'table', threadline.qualified_name(g.relid))
                   FROM pg_partition_tree(p.oid) AS g JOIN pg_class AS c ON c.oid = g.relid
                   WHERE p.relkind = 'p' AND c.relkind = 'f'
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'key_column_dropped', 'key_columns', to_jsonb(k.key_columns))
                   FROM captured AS k
                   WHERE k.oid = p.root
                     AND cardinality(threadline.followed_key(k.table_id, k.oid, k.key_columns, k.key_attnums)) < cardinality(k.key_columns)
               ) AS f (finding)), '[]'),
           coalesce((
               SELECT jsonb_agg(f.finding ORDER BY f.finding::text)
               FROM (
                   SELECT jsonb_build_object('finding', 'partition_of', 'table', threadline.qualified_name(p.root))
                   WHERE p.root <> p.oid
                   UNION ALL
                   -- A crash empties it, unrecorded.
                   SELECT jsonb_build_object('finding', 'unlogged') WHERE p.relpersistence = 'u'
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'has_inheritance_children', 'tables',
                                             jsonb_agg(threadline.qualified_name(h.inhrelid) ORDER BY h.inhrelid))
                   FROM pg_inherits AS h WHERE p.relkind = 'r' AND h.inhparent = p.oid
                   HAVING count(*) > 0
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'truncate_of_partition_unseen')
                   WHERE p.root <> p.oid AND p.relkind = 'r'
                     AND NOT EXISTS (SELECT FROM pg_trigger AS g
                                     WHERE g.tgrelid = p.oid AND g.tgfoid = 'threadline.capture_truncate()'::regprocedure
                                       AND g.tgenabled IN (CASE WHEN NOT threadline.fires_always(p.root) THEN 'O' END, 'A'))
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'key_not_unique', 'key_columns', to_jsonb(k.key_columns))
                   FROM captured AS k
                   WHERE k.oid = p.root AND k.oid = p.oid AND cardinality(k.key_columns) > 0
                     AND NOT threadline.is_unique_key(k.oid, threadline.followed_key(k.table_id, k.oid, k.key_columns, k.key_attnums))
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'changes_lost', 'changes', l.changes, 'latest', l.latest)
                   FROM captured AS k CROSS JOIN LATERAL threadline.lost_changes(k.table_id) AS l
                   WHERE k.oid = p.root AND l.latest IS NOT NULL
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'full_row_key')
                   FROM captured AS k WHERE k.oid = p.root AND k.oid = p.oid AND k.enabled AND k.key_columns = '{}'
                   UNION ALL
                   SELECT jsonb_build_object('finding', 'member_of_extension', 'extension', x.extname)
                   FROM pg_depend AS d JOIN pg_extension AS x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = p.oid AND d.deptype = 'e'
               ) AS f (finding)), '[]')
    FROM placed AS p
    LEFT JOIN captured AS own ON own.oid = p.oid
$$;

-- Whether columns are NOT NULL and a unique index holds exactly them.
CREATE FUNCTION threadline.is_unique_key(target oid, attnums int2[]) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT EXISTS (SELECT FROM pg_attribute AS a
                       WHERE a.attrelid = is_unique_key.target AND a.attnum = ANY (is_unique_key.attnums) AND NOT a.attnotnull)
       AND EXISTS (
           SELECT FROM pg_index AS i
           WHERE i.indrelid = is_unique_key.target AND i.indisunique AND i.indisvalid AND i.indimmediate
             AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = cardinality(is_unique_key.attnums)
             AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) AS n WHERE i.indkey[n] <> ALL (is_unique_key.attnums)))
$$;

-- The first thing to say of a table that is not covered.
CREATE FUNCTION threadline.uncovered_reason(lost jsonb, notes jsonb, switched_off timestamptz) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE f.value ->> 'finding'
               WHEN 'no_primary_key' THEN 'it has no primary key: audit_enable needs key_columns or options {"key": "full_row"}'
               WHEN 'deferrable_primary_key' THEN 'its primary key is deferrable'
               WHEN 'foreign_partition' THEN format('its partition %s is a foreign table', f.value ->> 'table')
               WHEN 'key_column_dropped' THEN 'a column of its key was dropped: writes to it fail'
               WHEN 'trigger_missing' THEN format('the %s trigger on %s is missing', f.value ->> 'trigger', f.value ->> 'table')
               WHEN 'trigger_replaced' THEN format('the %s trigger on %s calls something else', f.value ->> 'trigger', f.value ->> 'table')
               WHEN 'trigger_narrowed' THEN format('the %s trigger on %s does not fire for every change', f.value ->> 'trigger', f.value ->> 'table')
               WHEN 'trigger_disabled' THEN format('the %s trigger on %s is disabled', f.value ->> 'trigger', f.value ->> 'table')
               WHEN 'trigger_origin_only' THEN format('the %s trigger on %s does not fire in sessions of the replica role', f.value ->> 'trigger', f.value ->> 'table')
               WHEN 'trigger_replica_only' THEN format('the %s trigger on %s fires on replicas only', f.value ->> 'trigger', f.value ->> 'table')
               WHEN 'partition_attached' THEN format('partition %s came with rows that are not recorded', f.value ->> 'partition')
               WHEN 'partition_detached' THEN format('rows went unrecorded with partition %s', f.value ->> 'partition')
               WHEN 'partition_dropped' THEN format('rows went unrecorded with dropped partition %s', f.value ->> 'partition')
               WHEN 'partition_rewritten' THEN format('partition %s was truncated or rewritten before TRUNCATE of it was recorded', f.value ->> 'partition')
               WHEN 'member_of_extension' THEN format('it belongs to extension %s', f.value ->> 'extension')
               ELSE CASE WHEN uncovered_reason.switched_off IS NULL THEN 'it was never put under capture'
                         ELSE format('capture was switched off at %s', uncovered_reason.switched_off) END
           END
    FROM (
        SELECT l.value, 0 AS weight, l.n FROM jsonb_array_elements(uncovered_reason.lost) WITH ORDINALITY AS l (value, n)
        UNION ALL
        SELECT n.value, 1, 0 FROM jsonb_array_elements(uncovered_reason.notes) AS n WHERE n.value ->> 'finding' = 'member_of_extension'
        UNION ALL
        SELECT '{}', 2, 0
    ) AS f
    ORDER BY f.weight, f.n
    LIMIT 1
$$;

CREATE FUNCTION threadline.audit_coverage(schema_name name DEFAULT NULL)
RETURNS TABLE (table_schema text, table_name text, status text, reason text, findings jsonb)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
    SELECT n.nspname, c.relname,
           CASE WHEN v.root IS NOT NULL AND v.lost = '[]' THEN 'covered'
                WHEN v.expected IS NOT NULL THEN 'expected_uncovered'
                ELSE 'uncovered' END,
           CASE WHEN v.root IS NOT NULL AND v.lost = '[]'
                THEN CASE WHEN v.root <> v.relation THEN format('it is a partition of %s', threadline.qualified_name(v.root)) END
                ELSE coalesce(v.expected, threadline.uncovered_reason(v.lost, v.notes, v.switched_off)) END,
           v.lost || v.notes
    FROM threadline.table_coverage() AS v
    JOIN pg_class AS c ON c.oid = v.relation
    JOIN pg_namespace AS n ON n.oid = v.schema_id
    WHERE audit_coverage.schema_name IS NULL OR n.nspname = audit_coverage.schema_name
    ORDER BY n.nspname, c.relname
$$;
COMMENT ON FUNCTION threadline.audit_coverage(name) IS
'Every ordinary and partitioned table of the database, or of one schema, and whether its changes are recorded now: covered, uncovered, or expected_uncovered (noted by audit_expect_uncovered). reason: why not, or the table it is covered through. findings: a list of {"finding": …}; what keeps changes from being recorded (trigger_missing, trigger_replaced, trigger_narrowed, trigger_disabled, trigger_replica_only, trigger_origin_only: the option fires says always, partition_attached, partition_detached, partition_dropped: rows came or went with a partition unrecorded, partition_rewritten: it was truncated or rewritten before its TRUNCATE was recorded, key_column_dropped, no_primary_key, deferrable_primary_key, foreign_partition), and what to know of a covered table (partition_of, unlogged: a crash empties it unrecorded, has_inheritance_children: each is a table of its own, truncate_of_partition_unseen: TRUNCATE of the partition alone would not be recorded, and be a gap, key_not_unique: rows of one key share a history, full_row_key: captured without a key, so identical rows share a history, changes_lost: with on_error warn changes went unrecorded since the newest baseline, member_of_extension). Reads the catalogs only, so it is true whether or not audit_maintain ran. Raises no error; a schema that does not exist has no rows.';

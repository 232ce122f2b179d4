-- Our triggers on a table: whether they are in order, since when they are not, and taking them away.

-- Whether the policy of a table has its triggers fire in every session, those of the replica role among them.
CREATE FUNCTION threadline.fires_always(target oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM threadline.captured_table AS t
                   WHERE t.table_id = threadline.captured_id(fires_always.target) AND t.options @> '{"fires": "always"}')
$$;

-- Our triggers on a table and its partitions.
CREATE FUNCTION threadline.own_triggers(target oid) RETURNS SETOF pg_trigger
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.*
    FROM pg_trigger AS g
    WHERE g.tgfoid IN ('threadline.capture_row()'::regprocedure, 'threadline.capture_truncate()'::regprocedure)
      AND (g.tgrelid = own_triggers.target
           OR g.tgrelid IN (SELECT p.relid FROM pg_partition_tree(own_triggers.target::regclass) AS p))
$$;

-- Makes them fire in every session, or only in those of the origin role.
CREATE FUNCTION threadline.set_firing(target regclass, always boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own record;
BEGIN
    FOR own IN
        SELECT g.tgrelid, g.tgname
        FROM threadline.own_triggers(set_firing.target) AS g
        WHERE g.tgenabled <> CASE WHEN set_firing.always THEN 'A' ELSE 'O' END
    LOOP
        EXECUTE format('ALTER TABLE ONLY %s %s TRIGGER %I', threadline.qualified_name(own.tgrelid),
                       CASE WHEN set_firing.always THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, own.tgname);
    END LOOP;
END
$$;

-- What is wrong with the capture triggers of a table and, if it is partitioned, of all below it; empty when writes
-- are recorded. capture: row or truncate. state: missing, replaced (a trigger of our name calls something else),
-- narrowed (a WHEN, a column list, fewer events), disabled, replica_only, origin_only (always: what the
-- table's option fires says). reason: that of the gap it makes. Called by every look at the
-- history: in PL/pgSQL so that its plan is kept, and without locks on partitions.
CREATE FUNCTION threadline.trigger_findings(target oid, always boolean)
RETURNS TABLE (relation oid, capture text, state text, reason text)
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE tree AS (
        SELECT c.oid, c.relkind, true AS is_root
        FROM pg_class AS c
        WHERE c.oid = trigger_findings.target AND c.relkind IN ('r', 'p')
        UNION ALL
        SELECT c.oid, c.relkind, false
        FROM tree AS p
        JOIN pg_inherits AS h ON h.inhparent = p.oid
        JOIN pg_class AS c ON c.oid = h.inhrelid
        WHERE p.relkind = 'p'
    )
    SELECT t.oid, w.capture, s.state,
           CASE WHEN s.state IN ('missing', 'replaced') THEN 'trigger_dropped'
                WHEN s.state = 'narrowed' THEN 'bypass'
                WHEN s.state IN ('replica_only', 'origin_only') THEN 'replica_role'
                ELSE 'disabled' END
    FROM tree AS t
    -- The types are those of AFTER INSERT OR UPDATE OR DELETE for each row, and of BEFORE TRUNCATE.
    JOIN (VALUES ('row', 'threadline_capture', 'threadline.capture_row()'::regprocedure::oid, 29::int2),
                 ('truncate', 'threadline_truncate', 'threadline.capture_truncate()'::regprocedure::oid, 34)
         ) AS w (capture, trigger_name, function_oid, trigger_type) ON t.is_root OR w.capture = 'row'
    CROSS JOIN LATERAL (
        SELECT CASE WHEN bool_or(g.whole AND (g.tgenabled = 'A' OR (g.tgenabled = 'O' AND NOT trigger_findings.always))) THEN NULL
                    WHEN bool_or(g.whole AND g.tgenabled = 'O') THEN 'origin_only'
                    WHEN bool_or(g.whole AND g.tgenabled = 'R') THEN 'replica_only'
                    WHEN bool_or(g.whole) THEN 'disabled'
                    WHEN bool_or(g.ours) THEN 'narrowed'
                    WHEN bool_or(g.named) THEN 'replaced'
                    ELSE 'missing' END AS state
        FROM (
            SELECT i.tgenabled, starts_with(i.tgname::text, w.trigger_name) AS named, i.tgfoid = w.function_oid AS ours,
                   i.tgfoid = w.function_oid AND i.tgtype = w.trigger_type AND i.tgqual IS NULL
                   AND i.tgattr::text = '' AND i.tgconstraint = 0 AS whole
            FROM pg_trigger AS i
            WHERE i.tgrelid = t.oid
        ) AS g
    ) AS s
    WHERE s.state IS NOT NULL;
END
$$;

CREATE FUNCTION threadline.capture_armed(target oid, always boolean) RETURNS boolean
LANGUAGE sql STABLE
RETURN NOT EXISTS (SELECT FROM threadline.trigger_findings(capture_armed.target, capture_armed.always));

-- Makes the triggers of a table, or makes them whole again; what is not of ours stays. set_firing() is for after it.
CREATE FUNCTION threadline.arm_table(target regclass, for_schema boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target_name CONSTANT text := threadline.qualified_name(arm_table.target);
    own_trigger name;
BEGIN
    IF threadline.capture_armed(arm_table.target, threadline.fires_always(arm_table.target)) THEN
        RETURN;
    END IF;
    SELECT g.tgname INTO own_trigger
    FROM pg_trigger AS g
    WHERE g.tgrelid = arm_table.target AND g.tgfoid = 'threadline.capture_row()'::regprocedure AND g.tgparentid = 0
    ORDER BY g.tgname
    LIMIT 1;
    -- Partitions get their table's row trigger under its name, and ATTACH PARTITION fails where they have one of that name.
    -- So a name that others may get is no other table's.
    own_trigger := coalesce(own_trigger, 'threadline_capture' || CASE
        WHEN arm_table.for_schema OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = arm_table.target AND c.relkind = 'p')
        THEN '_' || arm_table.target::oid ELSE '' END);
    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION threadline.capture_row()',
                   own_trigger, target_name);
    EXECUTE format('CREATE OR REPLACE TRIGGER threadline_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION threadline.capture_truncate()', target_name);
END
$$;

-- The same as gaps, by reason, and what else the catalogs tell: of partitions (partitions.sql), and of a table captured
-- for itself that is recorded as a partition of another. A NULL target is a table that was dropped.
CREATE FUNCTION threadline.gaps_now(table_id integer, target oid, always boolean) RETURNS TABLE (reason text, detail jsonb)
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF gaps_now.target IS NULL THEN
        RETURN QUERY VALUES ('trigger_dropped', '{"table": "dropped"}'::jsonb);
        RETURN;
    END IF;
    RETURN QUERY
    SELECT f.reason, jsonb_build_object('findings', jsonb_agg(f.finding))
    FROM (
        SELECT t.reason, jsonb_build_object('table', threadline.qualified_name(t.relation), 'trigger', t.capture, 'state', t.state)
        FROM threadline.trigger_findings(gaps_now.target, gaps_now.always) AS t
        UNION ALL
        SELECT 'bypass', jsonb_build_object('partition', coalesce(threadline.qualified_name(p.relation), p.relation::text), 'state', p.state)
        FROM threadline.partition_findings(gaps_now.table_id, gaps_now.target) AS p
    ) AS f (reason, finding)
    GROUP BY f.reason;
    IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = gaps_now.target AND c.relispartition) THEN
        RETURN QUERY
        SELECT 'disabled', jsonb_build_object('captured_as', threadline.qualified_name(t.relation))
        FROM pg_partition_ancestors(gaps_now.target) WITH ORDINALITY AS a (relid, height)
        JOIN threadline.readable_table AS t ON t.relation = a.relid AND t.enabled
        WHERE a.relid <> gaps_now.target
        ORDER BY a.height DESC
        LIMIT 1;
    ELSIF EXISTS (SELECT FROM threadline.readable_partition AS k
                  WHERE k.relation = gaps_now.target AND k.table_id <> gaps_now.table_id
                    AND k.noted_at > (SELECT max(b.taken_at) FROM threadline.readable_baseline AS b WHERE b.table_id = gaps_now.table_id)) THEN
        -- It was one, unseen, and written as one.
        RETURN QUERY VALUES ('bypass', '{"findings": [{"state": "was_partition"}]}'::jsonb);
    END IF;
END
$$;

CREATE FUNCTION threadline.note_intact(table_id integer, intact_at timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO threadline.trigger_check AS k (table_id, intact_at) VALUES (note_intact.table_id, note_intact.intact_at)
    ON CONFLICT ON CONSTRAINT trigger_check_pkey DO UPDATE SET intact_at = greatest(k.intact_at, excluded.intact_at);
END
$$;

-- The latest time at which a table's capture is known to have worked. Looks at the newest changes only: in a large
-- log the last one of a quiet table would take long to find, and an earlier time is never wrong.
CREATE VIEW threadline.last_intact AS
SELECT t.table_id,
       greatest(t.enabled_at,
                (SELECT k.intact_at FROM threadline.trigger_check AS k WHERE k.table_id = t.table_id),
                (SELECT max(b.taken_at) FROM threadline.baseline AS b WHERE b.table_id = t.table_id),
                (SELECT max(n.captured_at)
                 FROM (SELECT c.table_id, c.captured_at FROM threadline.change_log AS c ORDER BY c.id DESC LIMIT 50000) AS n
                 WHERE n.table_id = t.table_id)) AS intact_at
FROM threadline.captured_table AS t;

-- Whether changes went unrecorded, or away, since the state of a table was last recorded as a whole.
CREATE FUNCTION threadline.gap_since_baseline(table_id integer) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM threadline.gap AS g
        WHERE g.table_id = gap_since_baseline.table_id AND g.reason <> 'not_yet_enabled'
          AND coalesce(g.until_at, 'infinity') > (SELECT max(b.taken_at) FROM threadline.baseline AS b WHERE b.table_id = g.table_id)
        UNION ALL
        SELECT FROM threadline.purge_watermark AS w
        WHERE w.table_id = gap_since_baseline.table_id
          AND w.purged_before > (SELECT max(b.taken_at) FROM threadline.baseline AS b WHERE b.table_id = w.table_id))
$$;

-- Compares the triggers of one captured table, or of all, with what they should be: opens a gap where changes are
-- being lost and closes it where they are recorded again. A gap begins when capture was last known to work, not when
-- somebody looked: between the two nothing is known. witnessed: the command that may have changed them ends just now.
-- Running it again changes nothing.
CREATE FUNCTION threadline.observe_capture(only_table_id integer DEFAULT NULL, witnessed boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t      record;
    seen   CONSTANT timestamptz := clock_timestamp();
    found_wrong jsonb;
    began  timestamptz;
    opened text[] := '{}';
    closed text[] := '{}';
    defect record;
BEGIN
    FOR t IN
        SELECT c.table_id, c.relation, threadline.qualified_name(c.relation) AS name, c.options @> '{"fires": "always"}' AS always
        FROM threadline.captured_table AS c
        JOIN pg_class AS r ON r.oid = c.relation
        WHERE c.enabled AND c.origin = threadline.origin()
          AND (observe_capture.only_table_id IS NULL OR c.table_id = observe_capture.only_table_id)
        ORDER BY c.table_id
        -- Whoever holds it is changing or observing it.
        FOR UPDATE OF c SKIP LOCKED
    LOOP
        SELECT coalesce(jsonb_object_agg(f.reason, f.detail), '{}') INTO found_wrong FROM threadline.gaps_now(t.table_id, t.relation, t.always) AS f;
        UPDATE threadline.gap AS g SET until_at = seen
        WHERE g.table_id = t.table_id AND g.until_at IS NULL AND g.detail ? 'observed_at' AND NOT found_wrong ? g.reason;
        IF FOUND THEN
            closed := closed || t.name;
        END IF;
        IF found_wrong = '{}' THEN
            PERFORM threadline.note_intact(t.table_id, seen);
            CONTINUE;
        END IF;
        FOR defect IN
            SELECT d.key AS reason, d.value AS detail
            FROM jsonb_each(found_wrong) AS d
            WHERE NOT EXISTS (SELECT FROM threadline.gap AS g
                              WHERE g.table_id = t.table_id AND g.reason = d.key AND g.until_at IS NULL)
        LOOP
            -- A recorded change proves that triggers fire, not that no partition came or went before it.
            began := CASE WHEN observe_capture.witnessed THEN seen
                          WHEN defect.reason = 'bypass'
                          THEN (SELECT greatest(c.enabled_at, k.intact_at) FROM threadline.captured_table AS c
                                LEFT JOIN threadline.trigger_check AS k ON k.table_id = c.table_id WHERE c.table_id = t.table_id)
                          ELSE (SELECT i.intact_at FROM threadline.last_intact AS i WHERE i.table_id = t.table_id) END;
            INSERT INTO threadline.gap (table_id, reason, since_at, detail)
            VALUES (t.table_id, defect.reason, began, defect.detail || jsonb_build_object('observed_at', seen));
            opened := opened || t.name;
        END LOOP;
    END LOOP;
    RETURN jsonb_build_object('opened', to_jsonb(opened), 'closed', to_jsonb(closed));
END
$$;

-- Ends capture of one table: its own triggers go, what a partitioned table above cloned to it stays.
CREATE FUNCTION threadline.drop_capture(target regclass, detail jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own_trigger name;
    ended       CONSTANT timestamptz := clock_timestamp();
    stopped_id  CONSTANT integer := threadline.captured_id(drop_capture.target);
BEGIN
    -- First, so that nobody who watches takes the triggers for lost.
    UPDATE threadline.captured_table AS t SET enabled = false, disabled_at = ended WHERE t.table_id = stopped_id AND t.enabled;
    IF FOUND THEN
        DELETE FROM threadline.known_partition AS k WHERE k.table_id = stopped_id;
        UPDATE threadline.gap AS g SET until_at = ended WHERE g.table_id = stopped_id AND g.until_at IS NULL;
        INSERT INTO threadline.gap (table_id, reason, since_at, detail) VALUES (stopped_id, 'disabled', ended, drop_capture.detail);
    END IF;
    FOR own_trigger IN
        SELECT g.tgname FROM pg_trigger AS g
        WHERE g.tgrelid = drop_capture.target AND g.tgparentid = 0
          AND g.tgfoid IN ('threadline.capture_row()'::regprocedure, 'threadline.capture_truncate()'::regprocedure)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', own_trigger, threadline.qualified_name(drop_capture.target));
    END LOOP;
    PERFORM threadline.disarm_partitions();
END
$$;

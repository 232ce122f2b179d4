-- Running it: the log's partitions, upkeep, what a DBA asks first, and who may do what.

-- Ids of the record are UUIDv7: they begin with the time in milliseconds, so the first id a month can have bounds it.
CREATE FUNCTION threadline.first_uuid(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT (lpad(to_hex(floor(extract(epoch FROM first_uuid.at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

CREATE FUNCTION threadline.uuid_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT to_timestamp(('x' || left(replace(uuid_time.id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) $$;

-- Whatever the database's default privileges give away, what is ours is the owner's alone.
CREATE FUNCTION threadline.revoke_all(object text, acl aclitem[], owner oid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM aclexplode(revoke_all.acl) AS a
        WHERE a.grantee <> revoke_all.owner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', revoke_all.object, grantee);
    END LOOP;
END
$$;

-- Makes a month's partition of a log and moves there what the default partition holds of it. Returns 'made',
-- 'there', or why it is not: the caller goes on, since the default partition takes every row.
CREATE FUNCTION threadline.make_partition(log name, month date) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Writers and readers queue behind a lock that is waited for.
SET lock_timeout = '300ms'
AS $$
DECLARE
    leaf     CONSTANT text := make_partition.log || to_char(make_partition.month, '_YYYY_MM');
    rest     CONSTANT text := make_partition.log || '_default';
    by_id    CONSTANT boolean := make_partition.log = 'transaction_log';
    starts   CONSTANT timestamptz := make_partition.month::timestamp AT TIME ZONE 'UTC';
    ends     CONSTANT timestamptz := (make_partition.month + interval '1 month') AT TIME ZONE 'UTC';
    -- As JSON writes them: no session's DateStyle and TimeZone plays a part.
    low      CONSTANT text := CASE WHEN by_id THEN threadline.first_uuid(starts)::text ELSE to_jsonb(starts) #>> '{}' END;
    high     CONSTANT text := CASE WHEN by_id THEN threadline.first_uuid(ends)::text ELSE to_jsonb(ends) #>> '{}' END;
    move     CONSTANT text := format(
        'WITH moved AS (DELETE FROM ONLY threadline.%1$I AS d WHERE d.%2$I >= %3$L AND d.%2$I < %4$L RETURNING d.*) INSERT INTO threadline.%5$I SELECT * FROM moved',
        rest, CASE WHEN by_id THEN 'id' ELSE 'captured_at' END, low, high, leaf);
    there    record;
BEGIN
    SELECT c.relispartition INTO there FROM pg_class AS c WHERE c.oid = to_regclass(format('threadline.%I', leaf));
    IF FOUND THEN
        RETURN CASE WHEN there.relispartition THEN 'there' ELSE 'a table of this name is no partition of the log' END;
    END IF;
    BEGIN
        EXECUTE format('LOCK TABLE ONLY threadline.%I IN SHARE UPDATE EXCLUSIVE MODE', make_partition.log);
        -- Somebody who held that lock may have made it.
        IF to_regclass(format('threadline.%I', leaf)) IS NOT NULL THEN
            RETURN 'there';
        END IF;
        EXECUTE format('CREATE TABLE threadline.%I (LIKE threadline.%I INCLUDING ALL)', leaf, rest);
        EXECUTE format('ALTER TABLE threadline.%I REPLICA IDENTITY FULL', leaf);
        PERFORM threadline.revoke_all(format('TABLE threadline.%I', leaf), c.relacl, c.relowner)
        FROM pg_class AS c WHERE c.oid = to_regclass(format('threadline.%I', leaf));
        -- Most rows move while others write; only the rest moves under the lock that stops them.
        EXECUTE move;
        FOR attempt IN REVERSE 3..1 LOOP
            BEGIN
                EXECUTE format('LOCK TABLE ONLY threadline.%I IN ACCESS EXCLUSIVE MODE', rest);
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                IF attempt = 1 THEN
                    RAISE;
                END IF;
            END;
        END LOOP;
        EXECUTE move;
        EXECUTE format('ALTER TABLE threadline.%I ATTACH PARTITION threadline.%I FOR VALUES FROM (%L) TO (%L)',
                       make_partition.log, leaf, low, high);
    EXCEPTION
        WHEN lock_not_available OR deadlock_detected OR object_in_use THEN
            RETURN 'the log is busy';
        WHEN OTHERS THEN
            RAISE WARNING USING
                ERRCODE = SQLSTATE,
                MESSAGE = format('partition threadline.%I could not be made: %s', leaf, SQLERRM),
                DETAIL = 'Nothing is lost: the default partition takes its rows.',
                HINT = 'SELECT threadline.audit_maintain();';
            RETURN SQLERRM;
    END;
    RETURN 'made';
END
$$;

-- Partitions for this month and the next ones (months in UTC), and for earlier ones the default partition holds
-- rows of. Returns those made, and those not, with the reason.
CREATE FUNCTION threadline.ensure_partitions(months_ahead integer DEFAULT 2, clear_default boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '300ms'
AS $$
DECLARE
    this_month CONSTANT date := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date;
    began      CONSTANT timestamptz := this_month::timestamp AT TIME ZONE 'UTC';
    past_changes      date[];
    past_transactions date[];
    made      text[] := '{}';
    postponed jsonb := '{}';
    wanted    record;
    reason    text;
BEGIN
    IF ensure_partitions.clear_default THEN
        -- Looking into a default partition locks it against whoever makes a partition: one at a time.
        BEGIN
            LOCK TABLE ONLY threadline.change_log, ONLY threadline.transaction_log IN SHARE UPDATE EXCLUSIVE MODE;
        EXCEPTION WHEN lock_not_available THEN
            RETURN jsonb_build_object('made', '[]'::jsonb, 'postponed', jsonb_build_object('all', 'the log is busy'));
        END;
        past_changes := ARRAY(
            SELECT DISTINCT date_trunc('month', d.captured_at AT TIME ZONE 'UTC')::date
            FROM ONLY threadline.change_log_default AS d WHERE d.captured_at < began);
        past_transactions := ARRAY(
            SELECT DISTINCT date_trunc('month', threadline.uuid_time(d.id) AT TIME ZONE 'UTC')::date
            FROM ONLY threadline.transaction_log_default AS d WHERE d.id < threadline.first_uuid(began));
    END IF;
    FOR wanted IN
        SELECT p.log, p.month, p.log || to_char(p.month, '_YYYY_MM') AS leaf
        FROM (
            SELECT l.log, (this_month + make_interval(months => n))::date AS month
            FROM (VALUES ('change_log'::name), ('transaction_log')) AS l (log), generate_series(0, ensure_partitions.months_ahead) AS n
            UNION
            SELECT 'change_log', m.month FROM unnest(past_changes) AS m (month)
            UNION
            SELECT 'transaction_log', m.month FROM unnest(past_transactions) AS m (month)
        ) AS p
        ORDER BY p.log, p.month
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_class AS c
                              WHERE c.oid = to_regclass(format('threadline.%I', wanted.leaf)) AND c.relispartition);
        -- A busy log stays busy: its other partitions would only wait as long again.
        CONTINUE WHEN EXISTS (SELECT FROM jsonb_each_text(postponed) AS p (name, why)
                              WHERE starts_with(p.name, wanted.log) AND p.why = 'the log is busy');
        reason := threadline.make_partition(wanted.log, wanted.month);
        IF reason = 'made' THEN
            made := made || wanted.leaf;
        ELSIF reason <> 'there' THEN
            postponed := postponed || jsonb_build_object(wanted.leaf, reason);
        END IF;
    END LOOP;
    RETURN jsonb_build_object('made', to_jsonb(made), 'postponed', postponed);
END
$$;

-- When a table that should have been captured was last seen to be: its last recorded change, else its beginning.
CREATE FUNCTION threadline.last_recorded(table_id integer) RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT max(c.captured_at) FROM threadline.change_log AS c WHERE c.table_id = last_recorded.table_id),
                    (SELECT t.enabled_at FROM threadline.captured_table AS t WHERE t.table_id = last_recorded.table_id))
$$;

-- Follows tables through renames, drops and restores. The cluster that wrote a row knows its table by OID; a
-- restored row is matched by name, and so is one whose table was restored here, capture triggers and all.
CREATE FUNCTION threadline.follow_tables() RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t        threadline.captured_table;
    live     record;
    key      int2[];
    excluded int2[];
    masked   int2[];
    paths    record;
    followed text[] := '{}';
    lost     text[] := '{}';
BEGIN
    -- A table that is just being put under capture, or changed, is followed by the next call.
    FOR t IN SELECT * FROM threadline.captured_table AS c ORDER BY c.table_id FOR UPDATE SKIP LOCKED LOOP
        SELECT c.oid, n.nspname, c.relname INTO live
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p')
          AND ((c.oid = t.relation AND t.origin = threadline.origin())
               OR (n.nspname = t.schema_name AND c.relname = t.table_name
                   AND (t.origin <> threadline.origin()
                        OR (threadline.captured_id(c.oid) IS NULL
                            AND EXISTS (SELECT FROM pg_trigger AS g
                                        WHERE g.tgrelid = c.oid AND g.tgfoid = 'threadline.capture_row()'::regprocedure)))))
        ORDER BY (c.oid = t.relation) DESC
        LIMIT 1;
        IF NOT FOUND THEN
            IF t.enabled THEN
                INSERT INTO threadline.gap (table_id, reason, since_at, detail)
                VALUES (t.table_id, 'trigger_dropped', threadline.last_recorded(t.table_id), '{"table": "dropped"}');
            END IF;
            -- The number may be given to another table one day.
            UPDATE threadline.captured_table AS c
            SET relation = 0, origin = threadline.origin(), enabled = false, disabled_at = coalesce(c.disabled_at, clock_timestamp())
            WHERE c.table_id = t.table_id AND (c.relation <> 0 OR c.enabled OR c.origin <> threadline.origin());
            IF FOUND THEN
                lost := lost || format('%I.%I', t.schema_name, t.table_name);
            END IF;
            CONTINUE;
        END IF;
        key := threadline.followed_key(t.table_id, live.oid, t.key_columns, t.key_attnums);
        IF cardinality(key) <> cardinality(t.key_columns) THEN
            lost := lost || format('%I.%I', live.nspname, live.relname);
            CONTINUE;
        END IF;
        excluded := threadline.followed_redaction(t.table_id, live.oid, t.exclude, t.exclude_attnums, 'exclude');
        masked := threadline.followed_redaction(t.table_id, live.oid, t.mask, t.mask_attnums, 'mask');
        SELECT * INTO paths FROM threadline.followed_paths(t.table_id, live.oid, t.mask_paths, t.mask_path_attnums);
        UPDATE threadline.captured_table AS c
        SET relation = live.oid, origin = threadline.origin(), schema_name = live.nspname, table_name = live.relname,
            key_columns = threadline.column_names(live.oid, key), key_attnums = key,
            exclude = threadline.column_names(live.oid, excluded), exclude_attnums = excluded,
            mask = threadline.column_names(live.oid, masked), mask_attnums = masked,
            mask_paths = paths.paths, mask_path_attnums = paths.attnums
        WHERE c.table_id = t.table_id
          AND (c.relation, c.origin, c.schema_name, c.table_name, c.key_columns, c.key_attnums,
               c.exclude, c.exclude_attnums, c.mask, c.mask_attnums, c.mask_paths, c.mask_path_attnums)
              IS DISTINCT FROM
              (live.oid::regclass, threadline.origin(), live.nspname, live.relname, threadline.column_names(live.oid, key), key,
               threadline.column_names(live.oid, excluded), excluded, threadline.column_names(live.oid, masked), masked,
               paths.paths, paths.attnums);
        IF FOUND THEN
            followed := followed || format('%I.%I', live.nspname, live.relname);
        END IF;
    END LOOP;
    RETURN jsonb_build_object('followed', to_jsonb(followed), 'lost', to_jsonb(lost));
END
$$;

-- At PREPARE TRANSACTION, once its row is written.
CREATE FUNCTION threadline.note_prepared(transaction_id uuid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO threadline.prepared_transaction (transaction_id, origin, xid, stamped_at)
    SELECT x.id, x.origin, x.xid, x.committed_at FROM threadline.transaction_log AS x WHERE x.id = note_prepared.transaction_id
$$;

-- Whoever sees the row sees a committed transaction. Those that were purged go.
CREATE FUNCTION threadline.observe_prepared() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM threadline.prepared_transaction AS p
    WHERE NOT EXISTS (SELECT FROM threadline.transaction_log AS x WHERE x.id = p.transaction_id);
    UPDATE threadline.prepared_transaction AS p
    SET known_at = greatest(p.stamped_at, coalesce(threadline.two_phase_commit_time(p.origin, p.xid), clock_timestamp()))
    WHERE p.known_at IS NULL;
$$;

CREATE FUNCTION threadline.upkeep() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '300ms'
AS $$
DECLARE
    tables     CONSTANT jsonb := threadline.follow_tables();
    gaps       CONSTANT jsonb := threadline.observe_capture();
    partitions CONSTANT jsonb := threadline.ensure_partitions(clear_default => true);
    new_tables CONSTANT text[] := threadline.capture_missed_tables();
    summarised bigint := 0;
    brin       record;
BEGIN
    PERFORM threadline.follow_partitions();
    PERFORM threadline.sum_up_costs();
    PERFORM threadline.observe_prepared();
    FOR brin IN
        SELECT x.oid
        FROM pg_inherits AS h
        JOIN pg_index AS i ON i.indrelid = h.inhrelid
        JOIN pg_class AS x ON x.oid = i.indexrelid
        JOIN pg_am AS a ON a.oid = x.relam
        WHERE h.inhparent = 'threadline.change_log'::regclass AND a.amname = 'brin'
    LOOP
        BEGIN
            summarised := summarised + brin_summarize_new_values(brin.oid);
        EXCEPTION WHEN lock_not_available THEN
            -- Somebody vacuums it, which summarises too.
            CONTINUE;
        END;
    END LOOP;
    RETURN jsonb_build_object('partitions', partitions, 'tables', tables, 'gaps', gaps, 'captured', to_jsonb(new_tables),
                              'ranges_summarised', summarised);
END
$$;

-- With the rights of the caller, for monitors run the expressions of users. They come first: upkeep may keep locks on the log.
CREATE FUNCTION threadline.audit_maintain() RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    monitors CONSTANT jsonb := (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(m)), '[]') FROM threadline.replay_run_monitors() AS m);
BEGIN
    RETURN threadline.upkeep() || pg_catalog.jsonb_build_object('monitors', monitors);
END
$$;

COMMENT ON FUNCTION threadline.audit_maintain() IS
    'Upkeep, safe at any time: runs the monitors (replay_run_monitors, with the caller''s rights), makes the log''s partitions for this month and the next two (UTC) and empties the default partition into those of past months, follows renamed, dropped and restored tables and the partitions of captured ones, notes gaps where capture triggers are not in order and ends those of tables where they are again, captures tables that audit_enable_schema(future => true) promised and a dropped event trigger missed, summarises indexes by time, sums up audit_cost()''s counts, and notes which prepared transactions are committed: answers of times since they were prepared are complete from then on. Never waits long for a lock: what it could not do now is done by the next call. Returns {"partitions": {"made", "postponed"}, "tables": {"followed", "lost"}, "gaps": {"opened", "closed"}, "captured", "ranges_summarised", "monitors"}; call it daily, and after a restore. Errors: 25006 in a READ ONLY transaction.';

-- Counting a large log takes long, so it is counted only up to 128 MB and else estimated as the planner does: by
-- each partition's rows per page and the share of the table among its most common values.
CREATE VIEW threadline.readable_activity WITH (security_barrier) AS
WITH leaf AS (
    SELECT c.oid,
           pg_catalog.pg_relation_size(c.oid) AS bytes,
           pg_catalog.pg_total_relation_size(c.oid) AS total_bytes,
           CASE WHEN c.relpages > 0 AND c.reltuples >= 0
                THEN c.reltuples / c.relpages * (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::integer)
                WHEN pg_catalog.pg_relation_size(c.oid) = 0 THEN 0 END AS row_estimate
    FROM pg_catalog.pg_inherits AS h
    JOIN pg_catalog.pg_class AS c ON c.oid = h.inhrelid
    WHERE h.inhparent = 'threadline.change_log'::regclass
), log AS (
    SELECT pg_catalog.sum(l.bytes) <= 128 * 1024 * 1024 AS small, pg_catalog.sum(l.total_bytes) AS total_bytes,
           CASE WHEN pg_catalog.bool_and(l.row_estimate IS NOT NULL) THEN pg_catalog.sum(l.row_estimate) END AS row_estimate
    FROM leaf AS l
), common AS (
    SELECT v.value::integer AS table_id, l.row_estimate * v.share AS changes
    FROM leaf AS l
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = l.oid AND a.attname = 'table_id'
    JOIN pg_catalog.pg_statistic AS s ON s.starelid = l.oid AND s.staattnum = a.attnum AND NOT s.stainherit
    CROSS JOIN LATERAL (
        VALUES (s.stakind1, s.stavalues1::text, s.stanumbers1), (s.stakind2, s.stavalues2::text, s.stanumbers2),
               (s.stakind3, s.stavalues3::text, s.stanumbers3), (s.stakind4, s.stavalues4::text, s.stanumbers4),
               (s.stakind5, s.stavalues5::text, s.stanumbers5)
    ) AS k (kind, common_values, shares)
    CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.common_values::text[]), pg_catalog.unnest(k.shares)) AS v (value, share)
    WHERE k.kind = 1
), counted AS (
    SELECT c.table_id, pg_catalog.count(*) AS changes, pg_catalog.max(c.captured_at) AS last_change,
           pg_catalog.sum(40 + pg_catalog.pg_column_size(c.transaction_id) + pg_catalog.pg_column_size(c.key)
                          + coalesce(pg_catalog.pg_column_size(c.old_key), 0) + coalesce(pg_catalog.pg_column_size(c.old_image), 0)
                          + coalesce(pg_catalog.pg_column_size(c.new_image), 0)
                          + coalesce(pg_catalog.pg_column_size(c.old_exact), 0) + coalesce(pg_catalog.pg_column_size(c.new_exact), 0)) AS bytes
    FROM threadline.change_log AS c
    WHERE (SELECT l.small FROM log AS l) AND c.table_id > 0 AND c.op <> 2
    GROUP BY c.table_id
), recent AS (
    SELECT n.table_id, pg_catalog.max(n.captured_at) AS last_change
    FROM (SELECT c.table_id, c.captured_at
          FROM threadline.change_log AS c
          WHERE NOT (SELECT l.small FROM log AS l)
          ORDER BY c.id DESC
          LIMIT 100000) AS n
    GROUP BY n.table_id
)
SELECT t.table_id, t.table_schema, t.table_name,
       CASE WHEN t.relation IS NULL THEN 'dropped'
            WHEN NOT t.enabled THEN 'disabled'
            WHEN NOT threadline.capture_armed(t.relation, t.options @> '{"fires": "always"}') THEN 'trigger_missing'
            ELSE 'capturing' END AS state,
       greatest(t.enabled_at, w.purged_before) AS since,
       CASE WHEN log.small THEN coalesce(n.changes, 0) END AS changes,
       coalesce(CASE WHEN log.small THEN coalesce(n.changes, 0) END, e.changes) AS changes_estimate,
       CASE WHEN log.small THEN n.last_change
            WHEN r.last_change IS NOT NULL THEN r.last_change
            -- Few rows are looked through by table (the order asked for is that of the index), many backwards from the newest.
            WHEN e.changes < 50000
            THEN (SELECT pg_catalog.max(f.captured_at)
                  FROM (SELECT c.captured_at FROM threadline.change_log AS c WHERE c.table_id = t.table_id AND c.op <> 2
                        ORDER BY c.row_key, c.id LIMIT 100000) AS f)
            ELSE (SELECT c.captured_at FROM threadline.change_log AS c WHERE c.table_id = t.table_id AND c.op <> 2
                  ORDER BY c.id DESC LIMIT 1) END AS last_change,
       CASE WHEN log.small THEN coalesce(n.bytes, 0)::bigint END AS size,
       (log.total_bytes * coalesce(n.changes, e.changes, 0)
        / nullif(CASE WHEN log.small THEN (SELECT pg_catalog.sum(m.changes) FROM counted AS m) ELSE log.row_estimate END, 0))::bigint
           AS size_estimate,
       b.baseline_at
FROM threadline.readable_table AS t
CROSS JOIN log
LEFT JOIN threadline.purge_watermark AS w ON w.table_id = t.table_id
LEFT JOIN counted AS n ON n.table_id = t.table_id
LEFT JOIN recent AS r ON r.table_id = t.table_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN log.row_estimate IS NOT NULL
                THEN pg_catalog.round(coalesce(pg_catalog.sum(m.changes), 0)::numeric)::bigint END AS changes
    FROM common AS m
    WHERE m.table_id = t.table_id
) AS e
LEFT JOIN LATERAL (
    SELECT pg_catalog.max(s.taken_at) AS baseline_at FROM threadline.baseline AS s WHERE s.table_id = t.table_id
) AS b ON true;

CREATE FUNCTION threadline.audit_status()
RETURNS TABLE (
    table_schema text, table_name text, state text, since timestamptz, changes bigint, changes_estimate bigint,
    last_change timestamptz, size bigint, size_estimate bigint, complete boolean, gaps text[], baseline_at timestamptz
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
-- Compiling the statement would take longer than running it.
SET jit = off
AS $$
    SELECT a.table_schema, a.table_name, a.state, a.since, a.changes, a.changes_estimate, a.last_change, a.size, a.size_estimate,
           a.state = 'capturing' AND g.reasons IS NULL, coalesce(g.reasons, '{}'), a.baseline_at
    FROM threadline.readable_activity AS a
    CROSS JOIN LATERAL (
        SELECT array_agg(DISTINCT i.reason ORDER BY i.reason) AS reasons
        FROM threadline.readable_gap AS i
        WHERE i.table_id = a.table_id AND i.until_at > a.since
    ) AS g
    ORDER BY a.table_schema, a.table_name, a.table_id
$$;

COMMENT ON FUNCTION threadline.audit_status() IS
    'One row per table that is or was under capture and that the caller may read. state: capturing, disabled, trigger_missing (enabled, but a trigger is gone or off), dropped. since: from when on its changes are there. changes and size (bytes of its changes in the log, without indexes) are exact, and NULL where counting would take long (a log above 128 MB); changes_estimate and size_estimate (its share of the log on disk, indexes included) are always estimates then, NULL until the log was analyzed. complete: captured now, and no gap since then; gaps lists their reasons. Raises no error.';

-- Who may do what, said once; what is not named here is its owner's alone. Each level has the ones before it.
-- A function stands for all its overloads. Views run what they call with the reader's rights, hence the
-- internal functions among the reader's: none of them has more rights than its caller.
CREATE FUNCTION threadline.access_list() RETURNS TABLE (level text, kind text, name name)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.level, l.kind, n.name::name
    FROM (VALUES
        ('public', 'routine', ARRAY[
            'set_actor', 'put_context', 'get_context', 'record_action', 'current_audit_transaction_id',
            'capture_row', 'capture_truncate']),
        ('reader', 'view', ARRAY[
            'audit_changes', 'audit_transactions', 'audit_actions', 'audit_tables', 'audit_schema_versions', 'audit_gaps',
            'readable_table', 'readable_change', 'readable_mark', 'readable_change_newest', 'readable_change_oldest', 'readable_place_newest', 'readable_place_oldest', 'readable_arrival',
            'readable_transaction', 'readable_prepared', 'readable_action', 'readable_baseline', 'readable_gap', 'readable_version', 'readable_partition',
            'readable_activity', 'readable_cost', 'replay_models', 'replay_projections', 'replay_invariants', 'replayable_table', 'replayable_change', 'replayable_change_oldest', 'readable_saved_run', 'replay_monitors', 'replay_failures']),
        ('reader', 'routine', ARRAY[
            'origin', 'pending_changes', 'pending_transaction', 'pending_cost', 'key_lookup', 'key_given', 'table_lookup', 'present_shape', 'digest_row_key', 'row_image', 'row_exact', 'row_key', 'type_definitions', 'respelling', 'respell',
            'op_name', 'object_keys', 'replace_exact', 'apply_image', 'applied_images', 'composite_key_object', 'key_object',
            'key_text', 'require_limit', 'row_key_of', 'row_tenures', 'row_page', 'row_history', 'gaps_between', 'require_readable', 'stamped_until', 'stamped_after', 'transactions_between', 'commit_horizon', 'two_phase_commit_time', 'settled', 'overtaken', 'next_xid', 'oldest_other_writer',
            'is_full_row', 'was_full_row', 'key_was_other', 'identity_changed', 'shape_differs', 'digested_shape', 'keeps_keys', 'counted_change', 'row_count', 'counts_fail',
            'counted_state', 'counted_row_state', 'row_departures', 'counted_comparison_statement',
            'mark_after', 'last_mark', 'row_marks', 'latest_change', 'state_base', 'row_state', 'row_state_at_once', 'row_state_by_query', 'typed_row_at_once', 'horizon_at_once', 'has_witness', 'gapless_at_once', 'has_marks', 'latest_op_at_once', 'table_state', 'table_state_start', 'typed_row_state',
            'report_incomplete', 'refuse_unknown_past', 'column_fate', 'version_as_now', 'json_columns', 'typed_row', 'typed_columns', 'castable', 'typed_statement', 'typed_rows', 'rows_statement', 'table_of_type', 'table_by_name',
            'audit_history', 'actor_history', 'audit_changes_for_transaction',
            'key_of_actor', 'stretch_of_commit', 'selection_of', 'commit_stretches', 'selected_transactions', 'choosing_statement', 'own_transaction', 'chosen_changes', 'gaps_in_window', 'commits_since', 'timeline_rows', 'audit_timeline',
            'names_now', 'renamed_image', 'differing_fields', 'window_changes', 'refuse_diff', 'counted_diff', 'keyed_diff', 'audit_diff', 'csv_record', 'audit_export',
            'is_seen', 'first_change_after', 'has_plain_key', 'rewind_start', 'rewind_statement', 'keyed_as_of', 'doubled_state', 'one_key', 'some_keys',
            'audit_as_of', 'audit_row_as_of', 'audit_table_as_of', 'audit_as_seen_by',
            'in_transaction_block', 'forget_plans', 'drop_together', 'view_is_volatile', 'time_travelling_at', 'require_temporary', 'temporary_comes_first', 'require_temporary_first',
            'has_children', 'travel_candidates', 'travel_hidden', 'refuse_uncaptured', 'refuse_past_change', 'some_names', 'tell_travel', 'shadow_tables', 'end_travel', 'time_travel', 'time_return',
            'bisect_named', 'bisect_begin', 'bisect_open', 'bisect_view', 'bisect_check_view', 'bisect_tables', 'bisect_refuse_qualified', 'bisect_present', 'bisect_reasons', 'bisect_key_changed',
            'bisect_window', 'bisect_change_statement', 'bisect_load', 'bisect_steps', 'bisect_apply', 'bisect_compact', 'bisect_evaluate', 'bisect_place', 'bisect_forward', 'bisect_binary',
            'bisect_result', 'incident_bisect',
            'statements_without_text', 'statement_ranges', 'statement_entry', 'audit_statements', 'change_statement',
            'json_differences', 'diff_documents', 'diff_document', 'change_diff', 'brief_value', 'change_summary',
            'previous_row_change', 'previous_change', 'next_row_change', 'next_change', 'transaction_bundles', 'incident_bundle', 'incident_bundle_for',
            'revert_changes', 'revert_shape', 'revert_keys', 'revert_history', 'revert_columns', 'state_of', 'revert_states', 'revert_moves', 'column_names',
            'state_values', 'revert_foreign_keys', 'revert_unique_keys', 'revert_handles', 'revert_edges', 'revert_order', 'equality',
            'revert_target', 'literal_of', 'revert_statements', 'revert_live', 'revert_copies', 'revert_later', 'revert_unwritable', 'revert_author',
            'revert_leaver', 'revert_holders', 'revert_bound', 'require_revertible', 'revert_tasks', 'revert_plan', 'revert_defer',
            'revert_execute', 'revert_effects', 'own_last_statement', 'revert_report', 'revert_rehearse', 'revert_apply', 'require_no_conflict',
            'revert_set', 'audit_revert', 'audit_revert_set', 'restored_key', 'came_from', 'restore_tasks', 'restore_row', 'audit_restore',
            'image_comparison', 'exact_without', 'shown_state', 'comparison_statement', 'sums_begin', 'sums_version', 'sums_mark', 'sums_change', 'sums_row', 'sums_end', 'compared_sums', 'violation_document', 'replay_check',
            'replay_violations', 'query_findings', 'require_model', 'run_begin', 'run_feed', 'run_skip', 'run_fail', 'run_state', 'run_states', 'run_value', 'run_judge', 'run_save', 'run_end', 'image_sums', 'column_of_image', 'changes_of_events', 'stream_branch', 'stream_statement', 'guarded_mapping', 'guarded_step', 'step_expression', 'function_name', 'engine_time', 'from_engine_time', 'table_source', 'known_from', 'run_request', 'execute_stream', 'redacted_inputs', 'run_doubts', 'known_changes', 'led_changes', 'run_change', 'failure_fingerprint', 'violations_of_run', 'violation_counts', 'result_of_run', 'check_model', 'try_query', 'try_expression', 'violation_of', 'violation_request', 'violation_slice', 'events_of_changes', 'events_query', 'trial_run', 'pinned_events', 'events_without', 'trial_shows', 'trial_fails', 'shortest_events', 'transactions_of_events', 'transaction_suspicions', 'but_for_sets', 'replay_minimal_set', 'rows_touched', 'results_compared', 'replay_without', 'replay_with',
            'test_type', 'hidden_columns', 'source_name', 'test_tables', 'test_model', 'test_events', 'replay_regression_test', 'replay_verify_fix', 'typed_nulls', 'state_nulls', 'refuse_spec', 'require_spec_shape', 'check_point', 'duration', 'trial_rows', 'expression_type', 'key_expression', 'ordered_expression', 'simple_tests', 'compile_invariant', 'column_reference', 'predicate',
            'query_note', 'query_source', 'query_relations', 'query_statement', 'query_answer', 'query_tables', 'queried_tables', 'query_doubts', 'last_change_of', 'watch_queries', 'is_reported', 'slice_of', 'merge_violations',
            'run_basis', 'run_settings', 'new_changes', 'resume_quickly', 'resume_run', 'execute_request',
            'report_heading', 'report_value', 'replay_report',
            'qualified_name', 'trigger_findings', 'partition_trigger', 'made_as_partition', 'holds_older_rows', 'partition_findings', 'gaps_now', 'capture_armed', 'audit_status', 'audit_cost']),
        ('operator', 'view', ARRAY['audit_purge_runs']),
        ('operator', 'routine', ARRAY[
            'audit_purge', 'purge_preview', 'purge_start', 'purge_change_batches', 'purge_change_batch',
            'purge_transaction_batches', 'purge_transaction_batch', 'purge_finish', 'refuse_inside_transaction',
            'replay_define_model', 'replay_drop_model', 'replay_add_projection', 'replay_add_invariant', 'store_projection', 'store_invariant', 'model_table', 'try_invariant_query',
            'latest_settled', 'advance_run', 'store_run', 'run_verdict', 'replay_checkpoint', 'replay_monitor', 'replay_run_monitors', 'hold_definitions', 'monitor_refusal', 'record_failures', 'note_failures', 'note_monitor_run',
            'upkeep', 'audit_maintain', 'audit_coverage', 'audit_policy', 'audit_health', 'audit_health_json']),
        ('admin', 'routine', ARRAY['audit_enable', 'audit_disable', 'audit_enable_schema', 'enable_schema_checked', 'captured_in_schema', 'audit_expect_uncovered',
            'audit_set_retention'])
    ) AS l (level, kind, names), unnest(l.names) AS n (name)
$$;

-- Gives a role exactly what its level has, taking back what it had beyond; NULL takes back everything.
CREATE FUNCTION threadline.apply_level(role_name name, level text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    levels CONSTANT text[] := ARRAY['reader', 'operator', 'admin'];
    held   CONSTANT integer := coalesce(array_position(levels, apply_level.level), 0);
    object record;
BEGIN
    FOR object IN
        SELECT format('EXECUTE ON ROUTINE %s', p.oid::regprocedure) AS privilege, array_position(levels, a.level) <= held AS has
        FROM threadline.access_list() AS a
        JOIN pg_proc AS p ON p.pronamespace = 'threadline'::regnamespace AND p.proname = a.name
        WHERE a.kind = 'routine' AND a.level <> 'public'
        UNION ALL
        SELECT format('SELECT ON TABLE threadline.%I', a.name), array_position(levels, a.level) <= held
        FROM threadline.access_list() AS a
        WHERE a.kind = 'view'
        UNION ALL
        SELECT 'USAGE ON SCHEMA threadline', held > 0
    LOOP
        EXECUTE format(CASE WHEN object.has THEN 'GRANT %s TO %I' ELSE 'REVOKE %s FROM %I' END,
                       object.privilege, apply_level.role_name);
    END LOOP;
END
$$;

CREATE FUNCTION threadline.audit_grant(role_name name, level text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF audit_grant.level IS NULL OR audit_grant.level NOT IN ('reader', 'operator', 'admin') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown level %s', coalesce('"' || audit_grant.level || '"', 'NULL')),
            DETAIL = 'reader reads the history of tables it may SELECT; operator also purges and maintains; admin also puts its own tables under capture and sets retention.',
            HINT = format('SELECT threadline.audit_grant(%L, ''reader'');', coalesce(audit_grant.role_name, 'some_role'));
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = audit_grant.role_name) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('role %s does not exist', coalesce('"' || audit_grant.role_name || '"', 'NULL')),
            HINT = CASE WHEN audit_grant.role_name = 'public' THEN 'Levels are given to roles by name.'
                        ELSE format('CREATE ROLE %I;', coalesce(audit_grant.role_name, 'some_role')) END;
    END IF;
    PERFORM threadline.apply_level(audit_grant.role_name, audit_grant.level);
    INSERT INTO threadline.role_grant AS g (role_name, level) VALUES (audit_grant.role_name, audit_grant.level)
    ON CONFLICT ON CONSTRAINT role_grant_pkey DO UPDATE
    SET level = excluded.level, granted_at = excluded.granted_at, granted_by = excluded.granted_by
    WHERE g.level <> excluded.level;
END
$$;

COMMENT ON FUNCTION threadline.audit_grant(name, text) IS
    'Gives a role one of three levels: reader (the views and read functions, of a table''s history only what it may SELECT; audit_revert and audit_restore, with its own rights on the tables), operator (also audit_purge, audit_maintain), admin (also audit_enable and audit_disable for tables it owns, audit_set_retention). A role has one level: granting another replaces it. For the extension''s owner. Errors: 42704 unknown role, 22023 unknown level, 42501 not the owner.';

CREATE FUNCTION threadline.audit_revoke_role(role_name name) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    there CONSTANT boolean := EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = audit_revoke_role.role_name);
BEGIN
    DELETE FROM threadline.role_grant AS g WHERE g.role_name = audit_revoke_role.role_name;
    -- A role that was dropped, or that the restored cluster never had, still leaves the list.
    IF NOT FOUND AND NOT there THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('role %s does not exist', coalesce('"' || audit_revoke_role.role_name || '"', 'NULL')),
            HINT = 'Roles with a level: SELECT role_name, level FROM threadline.role_grant;';
    END IF;
    IF there THEN
        PERFORM threadline.apply_level(audit_revoke_role.role_name, NULL);
    END IF;
END
$$;

COMMENT ON FUNCTION threadline.audit_revoke_role(name) IS
    'Takes back whatever audit_grant gave a role; harmless when it gave nothing. For the extension''s owner. Errors: 42704 unknown role, 42501 not the owner.';

-- Is what was asked for still what happens, and is the extension itself in order?

-- What has happened to the columns a policy names since it was set. Nothing is read but catalogs and recorded shapes.
CREATE FUNCTION threadline.policy_findings(p_table_id integer) RETURNS SETOF jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH policy AS (
        SELECT t.* FROM threadline.captured_table AS t WHERE t.table_id = policy_findings.p_table_id
    ), found AS (
        SELECT k.list, n.name, f.column_name AS name_now, a.atttypid, a.atttypmod, r.type_then
        FROM policy AS p
        CROSS JOIN LATERAL (VALUES ('key', p.key_columns, p.key_attnums), ('exclude', p.exclude, p.exclude_attnums),
                                   ('mask', p.mask, p.mask_attnums)) AS k (list, names, attnums)
        CROSS JOIN LATERAL unnest(k.names) WITH ORDINALITY AS n (name, ordinal)
        LEFT JOIN LATERAL (
            SELECT c.column_name, c.attnum
            FROM threadline.followed_columns(p.table_id, p.relation, k.names, k.attnums, k.list) AS c
            WHERE c.ordinal = n.ordinal
            ORDER BY c.preference
            LIMIT 1
        ) AS f ON true
        LEFT JOIN pg_attribute AS a ON a.attrelid = p.relation AND a.attnum = f.attnum
        -- As it was when last recorded.
        LEFT JOIN LATERAL (
            SELECT c.value ->> 'type' AS type_then
            FROM (SELECT v.columns FROM threadline.table_version AS v
                  WHERE v.table_id = p.table_id ORDER BY v.version DESC LIMIT 1) AS v
            CROSS JOIN LATERAL jsonb_array_elements(v.columns) AS c (value)
            WHERE (c.value ->> 'attnum')::int2 = f.attnum
        ) AS r ON true
    )
    SELECT jsonb_build_object('finding', 'column_dropped', 'list', f.list, 'column', f.name)
    FROM found AS f WHERE f.name_now IS NULL
    UNION ALL
    SELECT jsonb_build_object('finding', 'column_renamed', 'list', f.list, 'column', f.name, 'now', f.name_now)
    FROM found AS f WHERE f.name_now <> f.name
    UNION ALL
    SELECT jsonb_build_object('finding', 'column_retyped', 'list', f.list, 'column', f.name_now, 'type_then', f.type_then,
                              'type_now', format_type(f.atttypid, f.atttypmod))
    FROM found AS f WHERE f.type_then <> format_type(f.atttypid, f.atttypmod)
    UNION ALL
    SELECT jsonb_build_object('finding', 'key_not_unique', 'key_columns', to_jsonb(p.key_columns))
    FROM policy AS p
    WHERE cardinality(p.key_columns) > 0
      AND NOT EXISTS (SELECT FROM found AS f WHERE f.list = 'key' AND f.name_now IS NULL)
      AND NOT threadline.is_unique_key(p.relation, threadline.followed_key(p.table_id, p.relation, p.key_columns, p.key_attnums))
    UNION ALL
    SELECT jsonb_build_object('finding', CASE WHEN a.attname IS NULL THEN 'column_dropped' WHEN NOT threadline.holds_json(a.atttypid) THEN 'path_without_json'
                                              ELSE 'column_renamed' END, 'list', 'mask', 'path', m.path)
           || CASE WHEN a.attname IS NULL THEN '{}' ELSE jsonb_build_object('now', a.attname, 'type_now', format_type(a.atttypid, a.atttypmod)) END
    FROM policy AS p
    CROSS JOIN LATERAL unnest(p.mask_paths) WITH ORDINALITY AS m (path, place)
    LEFT JOIN LATERAL (
        SELECT c.attnum
        FROM threadline.followed_columns(p.table_id, p.relation, threadline.path_columns(p.mask_paths), p.mask_path_attnums, 'path') AS c
        WHERE c.ordinal = m.place
        ORDER BY c.preference
        LIMIT 1
    ) AS f ON true
    LEFT JOIN pg_attribute AS a ON a.attrelid = p.relation AND a.attnum = f.attnum
    WHERE a.attname IS NULL OR a.attname::text <> (threadline.path_steps(m.path))[1] OR NOT threadline.holds_json(a.atttypid)
    UNION ALL
    SELECT jsonb_build_object('finding', 'trigger_fires_always', 'trigger', g.tgname, 'table', threadline.qualified_name(g.tgrelid))
    FROM policy AS p CROSS JOIN LATERAL threadline.own_triggers(p.relation) AS g
    WHERE g.tgenabled = 'A' AND NOT p.options @> '{"fires": "always"}'
    UNION ALL
    SELECT jsonb_build_object('finding', 'trigger_' || w.state, 'trigger', w.capture, 'table', threadline.qualified_name(w.relation))
    FROM policy AS p CROSS JOIN LATERAL threadline.trigger_findings(p.relation, p.options @> '{"fires": "always"}') AS w
$$;

CREATE FUNCTION threadline.audit_policy()
RETURNS TABLE (table_schema text, table_name text, state text, exclude text[], mask text[], placeholder text, detail jsonb)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
    SELECT coalesce(n.nspname, t.schema_name), coalesce(c.relname, t.table_name),
           CASE WHEN c.oid IS NULL THEN 'could_not_introspect'
                WHEN f.findings IS NULL THEN 'config_matches_deployed'
                ELSE 'drift_detected' END,
           t.exclude::text[], t.mask::text[] || t.mask_paths, t.placeholder,
           jsonb_build_object('key_columns', to_jsonb(t.key_columns), 'options', t.options,
                              'findings', CASE WHEN c.oid IS NULL
                                               THEN jsonb_build_array(jsonb_build_object('finding', CASE WHEN t.origin = threadline.origin() THEN 'table_dropped' ELSE 'table_not_found' END))
                                               ELSE coalesce(f.findings, '[]') END)
    FROM threadline.captured_table AS t
    LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace)
        ON c.oid = t.relation
       AND (t.origin = threadline.origin() OR (n.nspname = t.schema_name AND c.relname = t.table_name))
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(p.finding ORDER BY p.finding::text) AS findings
        FROM threadline.policy_findings(t.table_id) AS p (finding)
        WHERE c.oid IS NOT NULL
    ) AS f ON true
    WHERE t.enabled
    ORDER BY 1, 2, t.table_id
$$;
COMMENT ON FUNCTION threadline.audit_policy() IS
'For every table under capture, whether the policy that was set is what happens: config_matches_deployed; drift_detected, when a column that the policy names was dropped, renamed or retyped since, the key no longer tells rows apart, or a capture trigger is not in order; could_not_introspect, when the table is gone or was not found after a restore (audit_maintain looks for it). exclude, mask and placeholder are as set. detail: key_columns, options and findings, a list of {"finding": column_dropped | column_renamed (still redacted under its new name; audit_maintain takes the name over) | column_retyped | path_without_json (a path into a column that holds documents no more: it is masked as a whole) | key_not_unique | trigger_fires_always (by hand: the option fires does not say so) | trigger_… | table_dropped | table_not_found, …}. Names and types only, never a value. Raises no error.';

-- Checks of what is recorded.
CREATE FUNCTION threadline.capture_checks() RETURNS TABLE (check_name text, severity text, detail text, hint text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
    WITH live AS MATERIALIZED (
        SELECT t.table_id, t.relation, t.enabled, threadline.qualified_name(t.relation) AS name, t.options @> '{"fires": "always"}' AS always
        FROM threadline.captured_table AS t
        JOIN pg_class AS c ON c.oid = t.relation
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE t.origin = threadline.origin() OR (n.nspname = t.schema_name AND c.relname = t.table_name)
    ), broken AS MATERIALIZED (
        SELECT l.name, string_agg(g.reason, ', ' ORDER BY g.reason) AS reasons
        FROM live AS l CROSS JOIN LATERAL threadline.gaps_now(l.table_id, l.relation, l.always) AS g
        WHERE l.enabled
        GROUP BY l.name
    ), uncovered AS MATERIALIZED (
        SELECT v.table_schema, v.table_name, v.reason
        FROM threadline.audit_coverage() AS v
        WHERE v.status = 'uncovered'
          AND EXISTS (SELECT FROM live AS l JOIN pg_class AS c ON c.oid = l.relation
                      WHERE l.enabled AND c.relnamespace = to_regnamespace(quote_ident(v.table_schema))
                      UNION ALL
                      SELECT FROM threadline.registered_schema(to_regnamespace(quote_ident(v.table_schema))) AS f WHERE f.schema_name IS NOT NULL)
    ), drift AS MATERIALIZED (
        SELECT format('%I.%I', p.table_schema, p.table_name) AS name, p.detail,
               p.state = 'could_not_introspect' OR p.detail -> 'findings' @> '[{"finding": "column_dropped", "list": "key"}]' AS stops
        FROM threadline.audit_policy() AS p
        WHERE p.state <> 'config_matches_deployed'
    ), still_open AS MATERIALIZED (
        SELECT l.name, g.reason, g.since_at, l.enabled
        FROM threadline.gap AS g JOIN live AS l ON l.table_id = g.table_id
        WHERE g.until_at IS NULL AND NOT coalesce(g.detail ? 'captured_as', false)
        UNION ALL
        SELECT l.name, g.reason, g.since_at, l.enabled
        FROM threadline.readable_gap AS g JOIN live AS l ON l.table_id = g.table_id
        WHERE g.reason = 'shape_changed' AND g.until_at = 'infinity'
    ), event_trigger AS (
        SELECT count(*) FILTER (WHERE e.evtenabled IN ('O', 'A')) AS enabled
        FROM pg_event_trigger AS e
        WHERE e.evtfoid IN ('threadline.after_ddl()'::regprocedure, 'threadline.after_drop()'::regprocedure, 'threadline.before_drop()'::regprocedure)
    )
    SELECT 'capture_triggers', CASE count(b.name) WHEN 0 THEN 'ok' ELSE 'critical' END,
           CASE count(b.name) WHEN 0 THEN format('the triggers of %s tables under capture are in order', (SELECT count(*) FROM live AS l WHERE l.enabled))
                ELSE format('changes are being lost: %s', string_agg(format('%s (%s)', b.name, b.reasons), ', ' ORDER BY b.name)) END,
           format('SELECT threadline.audit_enable(%L);', min(b.name))
    FROM broken AS b
    UNION ALL
    SELECT 'gaps', CASE WHEN count(g.name) = 0 THEN 'ok' WHEN NOT bool_or(g.enabled) THEN 'warning' ELSE 'critical' END,
           CASE count(g.name) WHEN 0 THEN 'no gap is open'
                ELSE format('gaps are open: %s', string_agg(format('%s (%s since %s)', g.name, g.reason, g.since_at), ', ' ORDER BY g.name, g.since_at)) END,
           format('SELECT threadline.audit_enable(%L);', min(g.name))
    FROM still_open AS g
    UNION ALL
    SELECT 'lost_changes', CASE count(l.name) WHEN 0 THEN 'ok' ELSE 'critical' END,
           CASE count(l.name) WHEN 0 THEN 'no change was let through unrecorded since the newest baseline of its table'
                ELSE format('tables with on_error warn wrote changes unrecorded since their newest baseline: %s',
                            string_agg(format('%s (%s changes, the latest at %s, SQLSTATE %s)', l.name, x.changes, x.latest, x.sqlstates), ', ' ORDER BY l.name)) END,
           format('SELECT reason, detail FROM threadline.audit_gaps WHERE reason = ''warn_on_error''; and when the cause is mended: SELECT threadline.audit_enable(%L);', min(l.name))
    FROM live AS l CROSS JOIN LATERAL threadline.lost_changes(l.table_id) AS x
    WHERE l.enabled AND x.latest IS NOT NULL
    UNION ALL
    SELECT 'coverage', CASE count(u.table_name) WHEN 0 THEN 'ok' ELSE 'warning' END,
           CASE count(u.table_name) WHEN 0 THEN 'every table of the schemas in which capture is used is covered, or not on purpose'
                ELSE format('%s tables are not covered, the first: %s', count(*),
                            (SELECT string_agg(format('%I.%I (%s)', f.table_schema, f.table_name, f.reason), ', ' ORDER BY f.table_schema, f.table_name)
                             FROM (SELECT * FROM uncovered AS x ORDER BY x.table_schema, x.table_name LIMIT 5) AS f)) END,
           'SELECT * FROM threadline.audit_coverage() WHERE status = ''uncovered'';'
    FROM uncovered AS u
    UNION ALL
    SELECT 'new_tables',
           CASE WHEN f.schemas IS NULL OR e.enabled = 3 THEN 'ok' ELSE 'critical' END,
           CASE WHEN f.schemas IS NULL THEN 'no schema has its new tables captured by themselves'
                WHEN e.enabled = 3 THEN format('new tables are captured by themselves in: %s', f.schemas)
                ELSE format('new tables should be captured by themselves in %s, but the event triggers are dropped or disabled', f.schemas) END,
           'SELECT threadline.audit_maintain();'
    FROM event_trigger AS e
    CROSS JOIN (SELECT string_agg(quote_ident(s.schema_name), ', ' ORDER BY s.schema_name) AS schemas FROM threadline.future_schema AS s) AS f
    UNION ALL
    SELECT 'policy', CASE WHEN count(d.name) = 0 THEN 'ok' WHEN bool_or(d.stops) THEN 'critical' ELSE 'warning' END,
           CASE count(d.name) WHEN 0 THEN 'every policy is what happens'
                ELSE format('policies drifted: %s', string_agg(format('%s (%s)', d.name,
                                (SELECT string_agg(DISTINCT f.value ->> 'finding', ', ') FROM jsonb_array_elements(d.detail -> 'findings') AS f)), ', ' ORDER BY d.name)) END,
           'SELECT * FROM threadline.audit_policy() WHERE state <> ''config_matches_deployed'';'
    FROM drift AS d
    UNION ALL
    SELECT 'restored_tables', CASE count(*) WHEN 0 THEN 'ok' ELSE 'warning' END,
           CASE count(*) WHEN 0 THEN 'every table was recorded by this cluster'
                ELSE format('%s tables were recorded by another cluster and not looked for since the restore', count(*)) END,
           'SELECT threadline.audit_maintain();'
    FROM threadline.captured_table AS t
    WHERE t.origin <> threadline.origin()
    UNION ALL
    SELECT 'maintenance', CASE WHEN min(k.intact_at) < now() - interval '3 days' THEN 'warning' ELSE 'ok' END,
           CASE WHEN min(k.intact_at) IS NULL THEN 'nothing is under capture'
                ELSE format('the triggers of every table were last looked at since %s', min(k.intact_at)) END,
           'SELECT threadline.audit_maintain();'
    FROM live AS l
    LEFT JOIN threadline.trigger_check AS k ON k.table_id = l.table_id
    WHERE l.enabled AND l.name NOT IN (SELECT b.name FROM broken AS b)
$$;

-- Checks of what it is recorded with.
CREATE FUNCTION threadline.storage_checks() RETURNS TABLE (check_name text, severity text, detail text, hint text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
    WITH ahead AS (
        SELECT l.log || to_char(m.month, '_YYYY_MM') AS leaf
        FROM (VALUES ('change_log'), ('transaction_log')) AS l (log)
        CROSS JOIN generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'), date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month', interval '1 month') AS m (month)
        WHERE EXISTS (SELECT FROM threadline.captured_table AS t WHERE t.enabled)
    ), missing AS (
        SELECT a.leaf FROM ahead AS a
        WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = to_regclass(format('threadline.%I', a.leaf)) AND c.relispartition)
    ), leftover AS (
        SELECT 'change_log_default' AS leaf WHERE EXISTS (SELECT FROM ONLY threadline.change_log_default)
        UNION ALL
        SELECT 'transaction_log_default' WHERE EXISTS (SELECT FROM ONLY threadline.transaction_log_default)
    ), invalid AS (
        SELECT c.relname
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace = 'threadline'::regnamespace AND NOT (i.indisvalid AND i.indisready)
    ), size AS (
        SELECT sum(pg_total_relation_size(p.relid)) AS log, pg_database_size(current_database()) AS database
        FROM (SELECT g.relid FROM pg_partition_tree('threadline.change_log') AS g
              UNION ALL
              SELECT g.relid FROM pg_partition_tree('threadline.transaction_log') AS g) AS p
    ), retention AS (
        SELECT bool_or(p.enabled) AS enabled FROM threadline.retention_policy AS p
    ), last_run AS (
        SELECT r.* FROM threadline.purge_run AS r WHERE NOT r.dry_run ORDER BY r.run_id DESC LIMIT 1
    ), finished AS (
        SELECT max(r.finished_at) AS at FROM threadline.purge_run AS r WHERE NOT r.dry_run AND r.status = 'completed'
    ), prepared AS (
        -- Writing to the log takes a lock on its partition, which a prepared transaction keeps.
        SELECT DISTINCT x.gid, x.prepared
        FROM pg_prepared_xacts AS x
        JOIN pg_locks AS own ON own.locktype = 'transactionid' AND own.transactionid = x.transaction AND own.mode = 'ExclusiveLock' AND own.granted
        JOIN pg_locks AS l ON l.virtualtransaction = own.virtualtransaction AND l.pid IS NULL AND l.locktype = 'relation'
        WHERE x.database = current_database()
          AND l.relation IN (SELECT g.relid FROM pg_partition_tree('threadline.change_log') AS g WHERE g.isleaf)
    ), malformed AS (
        SELECT count(*) AS transactions, max(x.committed_at) AS latest
        FROM threadline.transaction_log AS x
        WHERE x.committed_at > now() - interval '1 day' AND x.context ?| '{invalid_actor_ref,invalid_context}'
    ), replica AS (
        SELECT CASE WHEN s.setrole = 0 THEN format('ALTER DATABASE %I', current_database())
                    WHEN s.setdatabase = 0 THEN format('ALTER ROLE %I', pg_get_userbyid(s.setrole))
                    ELSE format('ALTER ROLE %I IN DATABASE %I', pg_get_userbyid(s.setrole), current_database()) END
               || ' RESET session_replication_role;' AS remedy
        FROM pg_db_role_setting AS s
        WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
          AND 'session_replication_role=replica' = ANY (s.setconfig)
        UNION ALL
        SELECT 'ALTER SYSTEM RESET session_replication_role; SELECT pg_reload_conf();'
        FROM pg_settings AS g
        WHERE g.name = 'session_replication_role' AND g.reset_val = 'replica' AND g.source NOT IN ('database', 'user', 'database user')
    ), blind AS (
        SELECT FROM threadline.captured_table AS t WHERE t.enabled AND t.options ->> 'fires' IS DISTINCT FROM 'always'
    ), version AS (
        SELECT x.extversion AS installed, threadline.library_version() AS library, a.default_version AS available
        FROM pg_extension AS x
        LEFT JOIN pg_available_extensions AS a ON a.name = x.extname
        WHERE x.extname = 'threadline_forensics'
    )
    SELECT 'partitions_ahead', CASE count(*) WHEN 0 THEN 'ok' ELSE 'warning' END,
           CASE count(*) WHEN 0 THEN 'the log has its partitions for this month and the next'
                ELSE format('the log lacks partitions: %s', string_agg(m.leaf, ', ' ORDER BY m.leaf)) END,
           'SELECT threadline.audit_maintain();'
    FROM missing AS m
    UNION ALL
    SELECT 'default_partition', CASE count(*) WHEN 0 THEN 'ok' ELSE 'warning' END,
           CASE count(*) WHEN 0 THEN 'the default partitions are empty' ELSE format('rows are in %s', string_agg(l.leaf, ', ' ORDER BY l.leaf)) END,
           'SELECT threadline.audit_maintain();'
    FROM leftover AS l
    UNION ALL
    SELECT 'indexes', CASE count(*) WHEN 0 THEN 'ok' ELSE 'warning' END,
           CASE count(*) WHEN 0 THEN 'every index of the log is valid' ELSE format('indexes are not valid: %s', string_agg(i.relname, ', ' ORDER BY i.relname)) END,
           'REINDEX INDEX CONCURRENTLY threadline.' || quote_ident(min(i.relname)) || ';'
    FROM invalid AS i
    UNION ALL
    SELECT 'log_size', CASE WHEN s.log > 16 * 1024 * 1024 AND s.log > s.database / 2 AND r.enabled IS NOT TRUE THEN 'warning' ELSE 'ok' END,
           format('the log is %s of a database of %s%s', pg_size_pretty(s.log), pg_size_pretty(s.database),
                  CASE WHEN r.enabled THEN '' ELSE ', and nothing of it is ever removed' END),
           'SELECT threadline.audit_set_retention(keep => ''90 days'', enabled => true);'
    FROM size AS s CROSS JOIN retention AS r
    UNION ALL
    SELECT 'retention',
           CASE WHEN r.enabled IS NOT TRUE THEN 'ok' WHEN l.status = 'failed' THEN 'critical'
                WHEN f.at IS NULL OR f.at < now() - interval '3 days' THEN 'warning' ELSE 'ok' END,
           CASE WHEN r.enabled IS NOT TRUE THEN 'everything is kept'
                WHEN l.status = 'failed' THEN format('the last purge, started at %s, failed: %s', l.started_at, l.error_message)
                WHEN f.at IS NULL THEN 'retention is enabled, but audit_purge never ran'
                ELSE format('audit_purge last finished at %s', f.at) END,
           'CALL threadline.audit_purge(dry_run => false);'
    FROM retention AS r CROSS JOIN finished AS f LEFT JOIN last_run AS l ON true
    UNION ALL
    SELECT 'prepared_transactions', CASE count(*) WHEN 0 THEN 'ok' ELSE 'warning' END,
           CASE count(*) WHEN 0 THEN 'no prepared transaction holds changes back'
                ELSE format('prepared transactions hold changes back: %s', string_agg(format('%L since %s', p.gid, p.prepared), ', ' ORDER BY p.prepared)) END,
           format('COMMIT PREPARED %1$L; or ROLLBACK PREPARED %1$L;', min(p.gid))
    FROM prepared AS p
    UNION ALL
    SELECT 'malformed_context', CASE m.transactions WHEN 0 THEN 'ok' ELSE 'warning' END,
           CASE m.transactions WHEN 0 THEN 'every actor and context of the last day was well-formed JSON'
                ELSE format('%s transactions of the last day, the latest at %s, set threadline.actor_ref or threadline.context to what is no JSON object', m.transactions, m.latest) END,
           'SELECT id, committed_at, application_name, context FROM threadline.audit_transactions WHERE context ?| ''{invalid_actor_ref,invalid_context}'' ORDER BY committed_at DESC LIMIT 10;'
    FROM malformed AS m
    UNION ALL
    SELECT 'replica_role', CASE count(*) WHEN 0 THEN 'ok' ELSE 'critical' END,
           CASE count(*) WHEN 0 THEN 'no role, database or configuration sets session_replication_role to replica'
                ELSE 'session_replication_role is set to replica: sessions it applies to write unrecorded, except to tables whose option fires is always' END,
           min(p.remedy)
    FROM replica AS p
    WHERE EXISTS (SELECT FROM blind)
    UNION ALL
    SELECT 'track_commit_timestamp',
           CASE WHEN current_setting('track_commit_timestamp') = 'off' AND current_setting('max_prepared_transactions') <> '0' THEN 'warning' ELSE 'ok' END,
           format('track_commit_timestamp is %s%s', current_setting('track_commit_timestamp'),
                  CASE WHEN current_setting('track_commit_timestamp') = 'off' AND current_setting('max_prepared_transactions') <> '0'
                       THEN ': when a prepared transaction was committed cannot be told from when it was prepared' ELSE '' END),
           'ALTER SYSTEM SET track_commit_timestamp = on; then restart the server'
    UNION ALL
    SELECT 'extension_version',
           CASE WHEN v.installed <> v.library THEN 'critical' WHEN v.installed <> v.available THEN 'warning' ELSE 'ok' END,
           format('SQL objects %s, library %s, available %s', v.installed, v.library, coalesce(v.available, 'nothing')),
           'ALTER EXTENSION threadline_forensics UPDATE;'
    FROM version AS v
$$;

CREATE FUNCTION threadline.audit_health() RETURNS TABLE (check_name text, severity text, detail text, hint text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.check_name, c.severity, c.detail, CASE WHEN c.severity <> 'ok' THEN c.hint END
    FROM (SELECT * FROM threadline.capture_checks() UNION ALL SELECT * FROM threadline.storage_checks()) AS c
$$;
COMMENT ON FUNCTION threadline.audit_health() IS
'Everything worth watching, one row a check, always all of them. severity: ok; warning: will hurt later; critical: changes are or will be lost, or writes fail. hint: the SQL to type, NULL when ok. Checks: capture_triggers, gaps (open ones), lost_changes (unrecorded by tables with on_error warn), coverage (of the schemas in which capture is used), new_tables (event triggers of audit_enable_schema), policy, restored_tables, maintenance, partitions_ahead, default_partition, indexes, log_size, retention, prepared_transactions, malformed_context, replica_role, track_commit_timestamp, extension_version. Raises no error.';

CREATE FUNCTION threadline.audit_health_json() RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
        'status', CASE WHEN bool_or(h.severity = 'critical') THEN 'critical' WHEN bool_or(h.severity = 'warning') THEN 'warning' ELSE 'ok' END,
        'checked_at', to_jsonb(clock_timestamp()),
        'checks', jsonb_agg(jsonb_build_object('check_name', h.check_name, 'severity', h.severity, 'detail', h.detail, 'hint', h.hint)))
    FROM threadline.audit_health() AS h
$$;
COMMENT ON FUNCTION threadline.audit_health_json() IS
'audit_health() for machines: {"status": the worst severity, "checked_at", "checks": [{"check_name", "severity", "detail", "hint"}]}.';

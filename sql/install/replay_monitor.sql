-- Incremental checks of models: a run up to a time that nothing can commit before any more is saved, and the next one goes on from
-- there. Monitors do that regularly and record the failures they find.

-- Who may read the tables may read what a run over them came to.
CREATE VIEW threadline.readable_saved_run WITH (security_barrier) AS
SELECT s.model, s.commit_no, s.until_at, s.origin, s.plan, s.events, s.state, s.stopped, s.saved_at
FROM threadline.replay_saved_run s
WHERE s.table_ids OPERATOR(pg_catalog.<@) ARRAY(SELECT t.table_id FROM threadline.readable_table t);

-- All that the outcome of a request depends on, but for the end of it and what came since: another one makes a saved run useless.
CREATE FUNCTION threadline.run_basis(p_request threadline.replay_request) RETURNS jsonb
LANGUAGE sql STABLE
SET timezone = 'UTC'
AS $$
    SELECT pg_catalog.jsonb_build_object(
        -- Another version may keep its states otherwise.
        'version', (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'threadline_forensics'),
        'plan', (p_request).plan - '{until,since,stop}'::text[],
        'tests', (p_request).tests,
        'tables', (
            SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('table_id', s.table_id, 'relation', s.relation, 'from', s.changes_from, 'baselines', s.baselines, 'emptied', s.emptied, 'inputs', s.inputs,
                       'columns', (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.attnum, a.attname, a.atttypid, a.atttypmod) ORDER BY a.attnum)
                                   FROM pg_catalog.pg_attribute a WHERE a.attrelid = s.relation AND a.attnum > 0 AND NOT a.attisdropped)) ORDER BY s.n)
            FROM pg_catalog.unnest((p_request).sources) s),
        'projections', (
            SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(p) ORDER BY p.no) FROM threadline.replay_projections p
            WHERE p.model = (p_request).model AND p.name = ANY (ARRAY(SELECT s.projection FROM pg_catalog.unnest((p_request).sources) s))),
        'gaps', (
            SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(g.table_id, g.reason, g.since_at, g.until_at) ORDER BY g.table_id, g.reason, g.since_at, g.until_at)
            FROM threadline.readable_gap g WHERE g.table_id = ANY (ARRAY(SELECT s.table_id FROM pg_catalog.unnest((p_request).sources) s))))
$$;

-- What of the session expressions may depend on.
CREATE FUNCTION threadline.run_settings() RETURNS jsonb
LANGUAGE sql STABLE
RETURN pg_catalog.jsonb_build_array(pg_catalog.current_schemas(false), pg_catalog.current_setting('timezone'), pg_catalog.current_setting('datestyle'));

-- Which changes a run that ended at a commit has not seen, as a condition for replay_execute, and about how many they are. A long
-- transaction's may be older than the commit. All have their transaction: without it are only those that a purge left, and that begins anew.
CREATE FUNCTION threadline.new_changes(p_commit_no bigint, p_until timestamptz, OUT condition text, OUT change_count bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(' AND c.id >= %s AND x.id >= %L AND coalesce(x.commit_no, 9223372036854775807) > %s',
                  least(min(n.first_id), p_commit_no), coalesce((array_agg(n.id ORDER BY n.id))[1], 'ffffffff-ffff-ffff-ffff-ffffffffffff'), p_commit_no),
           coalesce(sum(n.change_count)::bigint, 0)
    FROM (SELECT x.id, lower(x.change_ids) AS first_id, x.change_count
          FROM threadline.transactions_between(p_commit_no, p_until, 9223372036854775807, 'infinity') x
          UNION ALL
          SELECT x.id, lower(x.change_ids), x.change_count FROM threadline.pending_transaction() x) n
$$;

-- The same run with a plan for few changes, by their ids, and few transactions. The log's statistics may know nothing of them.
CREATE FUNCTION threadline.resume_quickly(p_request threadline.replay_request, p_state threadline.saved_run, p_conditions text, p_save boolean, OUT outcome jsonb, OUT states jsonb, OUT saved threadline.saved_run)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off
AS $$
DECLARE
    v_run record;
BEGIN
    v_run := threadline.execute_stream(p_request, p_state, p_conditions, p_save);
    outcome := v_run.outcome;
    states := v_run.states;
    saved := v_run.saved;
END
$$;

-- Goes on from a saved run, or from the beginning where p_state is NULL.
CREATE FUNCTION threadline.resume_run(p_request threadline.replay_request, p_state threadline.saved_run, p_commit_no bigint, p_until timestamptz, p_save boolean, OUT outcome jsonb, OUT states jsonb, OUT saved threadline.saved_run)
LANGUAGE plpgsql
AS $$
DECLARE
    v_new record;
    v_run record;
BEGIN
    IF p_state IS NULL THEN
        v_run := threadline.execute_stream(p_request, NULL, NULL, p_save);
    ELSE
        v_new := threadline.new_changes(p_commit_no, p_until);
        IF v_new.change_count < 100000 THEN
            v_run := threadline.resume_quickly(p_request, p_state, v_new.condition, p_save);
        ELSE
            v_run := threadline.execute_stream(p_request, p_state, v_new.condition, p_save);
        END IF;
    END IF;
    outcome := v_run.outcome;
    states := v_run.states;
    saved := v_run.saved;
END
$$;

-- Runs a request, from the saved run on if that is of the same.
CREATE FUNCTION threadline.execute_request(p_request threadline.replay_request, OUT outcome jsonb, OUT states jsonb)
LANGUAGE plpgsql
AS $$
DECLARE
    v_saved record;
    v_run record;
BEGIN
    SELECT s.* INTO v_saved FROM threadline.readable_saved_run s
    WHERE s.model = p_request.model AND p_request.since = '-infinity' AND p_request.until = 'infinity' AND p_request.events IS NULL
      AND s.origin = threadline.origin()
      AND s.plan = threadline.run_basis(p_request) || pg_catalog.jsonb_build_object('settings', threadline.run_settings());
    IF p_request.stop AND v_saved.stopped IS NOT NULL THEN
        outcome := v_saved.stopped -> 'outcome';
        states := v_saved.stopped -> 'states';
    ELSE
        v_run := threadline.resume_run(p_request, v_saved.state, v_saved.commit_no, v_saved.until_at, false);
        outcome := v_run.outcome;
        states := v_run.states;
    END IF;
END
$$;

-- The latest time that is known to be settled, NULL when none is.
CREATE FUNCTION threadline.latest_settled() RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_at timestamptz := clock_timestamp();
BEGIN
    IF threadline.settled(v_at) THEN
        RETURN v_at;
    END IF;
    -- Before whoever is writing began, or before the youngest did that was over when they drew their xids.
    FOR v_at IN
        SELECT c.at
        FROM (SELECT threadline.oldest_other_writer() - interval '1 microsecond' AS at
              UNION ALL
              SELECT max(w.started_at) - interval '1 microsecond'
              FROM (SELECT x.started_at FROM threadline.readable_transaction x
                    WHERE x.committed_at <= v_at AND x.origin = threadline.origin() AND x.xid < pg_snapshot_xmin(pg_current_snapshot())
                    ORDER BY x.committed_at DESC, x.commit_no DESC LIMIT 256) w) c
        WHERE c.at IS NOT NULL
        ORDER BY c.at DESC
    LOOP
        IF threadline.settled(v_at) THEN
            RETURN v_at;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- By the owner's right.
CREATE FUNCTION threadline.store_run(p_model text, p_commit_no bigint, p_until timestamptz, p_basis jsonb, p_table_ids integer[], p_events bigint, p_state threadline.saved_run, p_stopped jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO threadline.replay_saved_run (model, commit_no, until_at, origin, plan, table_ids, events, state, stopped)
    VALUES (p_model, p_commit_no, p_until, threadline.origin(), p_basis, p_table_ids, p_events, p_state, p_stopped)
    ON CONFLICT ON CONSTRAINT replay_saved_run_pkey
    DO UPDATE SET commit_no = excluded.commit_no, until_at = excluded.until_at, origin = excluded.origin, plan = excluded.plan, table_ids = excluded.table_ids,
                  events = excluded.events, state = excluded.state, stopped = excluded.stopped, saved_at = excluded.saved_at
$$;

-- How a run went on. anew: why it began at the beginning.
CREATE TYPE threadline.run_progress AS (
    request    threadline.replay_request,
    outcome    jsonb,
    new_events bigint,
    anew       text,
    until_at   timestamptz,
    verdict    text
);

CREATE FUNCTION threadline.run_verdict(p_request threadline.replay_request, p_outcome jsonb) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM threadline.violation_counts(p_request, p_outcome) c WHERE c.severity = 'error' AND c.violations > 0) THEN 'violated'
        -- It ends at a time that was settled when it was chosen.
        WHEN EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(threadline.run_doubts(p_request, p_outcome)) AS d (value) WHERE d.value ->> 'reason' <> 'not_settled') THEN 'unknown'
        ELSE 'holds' END
$$;

-- Takes the saved run of a model as far as it goes and saves that.
CREATE FUNCTION threadline.advance_run(p_model text, p_anew boolean) RETURNS threadline.run_progress
LANGUAGE plpgsql
AS $$
DECLARE
    v_progress threadline.run_progress;
    v_request threadline.replay_request;
    v_stopping threadline.replay_request;
    v_at timestamptz := threadline.latest_settled();
    v_saved record;
    v_basis jsonb;
    v_run record;
    v_first record;
    v_stopped jsonb;
BEGIN
    PERFORM threadline.require_model(p_model);
    SELECT s.* INTO v_saved FROM threadline.readable_saved_run s WHERE s.model = p_model AND s.origin = threadline.origin();
    v_at := greatest(v_at, v_saved.until_at);
    IF v_at IS NULL THEN
        v_progress.anew := 'transactions are in flight that may still commit before any other';
        v_progress.verdict := 'unknown';
        v_progress.new_events := 0;
        RETURN v_progress;
    END IF;
    v_request := threadline.run_request(p_model, '-infinity', v_at, false, NULL, NULL, NULL);
    v_request.horizon := greatest(v_request.horizon, v_saved.commit_no);
    v_basis := threadline.run_basis(v_request) || pg_catalog.jsonb_build_object('settings', threadline.run_settings());
    v_progress.anew := CASE
        WHEN v_saved.model IS NULL THEN 'nothing was saved for the model as it is defined now'
        WHEN p_anew THEN 'asked for'
        WHEN v_saved.plan -> 'gaps' IS DISTINCT FROM v_basis -> 'gaps' THEN 'a gap or a purge of a table since'
        WHEN v_saved.plan -> 'settings' <> v_basis -> 'settings' THEN 'another search_path, TimeZone or DateStyle'
        WHEN v_saved.plan <> v_basis THEN 'a baseline or another shape of a table since' END;
    IF v_progress.anew IS NOT NULL THEN
        v_saved.state := NULL;
        v_saved.stopped := NULL;
        v_saved.events := 0;
    END IF;
    v_run := threadline.resume_run(v_request, v_saved.state, v_saved.commit_no, v_saved.until_at, true);
    v_stopped := v_saved.stopped;
    IF v_stopped IS NULL AND EXISTS (SELECT FROM threadline.violation_counts(v_request, v_run.outcome) c WHERE c.severity = 'error' AND c.violations > 0) THEN
        v_stopping := v_request;
        v_stopping.stop := true;
        v_stopping.plan := v_request.plan || '{"stop": true}';
        v_first := threadline.resume_run(v_stopping, v_saved.state, v_saved.commit_no, v_saved.until_at, false);
        v_stopped := CASE WHEN (v_first.outcome ->> 'stopped')::boolean THEN pg_catalog.jsonb_build_object('outcome', v_first.outcome, 'states', v_first.states) END;
    END IF;
    IF v_run.saved IS NOT NULL THEN
        PERFORM threadline.store_run(p_model, v_request.horizon, v_at, v_basis, ARRAY(SELECT s.table_id FROM pg_catalog.unnest(v_request.sources) s WHERE s.table_id IS NOT NULL),
                                     (v_run.outcome ->> 'events')::bigint, v_run.saved, v_stopped);
    END IF;
    v_progress.request := v_request;
    v_progress.outcome := v_run.outcome;
    v_progress.new_events := (v_run.outcome ->> 'events')::bigint - coalesce(v_saved.events, 0);
    v_progress.until_at := v_at;
    v_progress.verdict := threadline.run_verdict(v_request, v_run.outcome);
    RETURN v_progress;
END
$$;

CREATE FUNCTION threadline.replay_checkpoint(model text, anew boolean = false) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_progress threadline.run_progress;
BEGIN
    IF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING
            ERRCODE = 'read_only_sql_transaction',
            MESSAGE = pg_catalog.format('replay_checkpoint() saves how far it came, which cannot be done %s', CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on a standby' ELSE 'in a read-only transaction' END),
            HINT = pg_catalog.format('SELECT threadline.replay_check(%L); goes on from what was saved last.', replay_checkpoint.model);
    END IF;
    v_progress := threadline.advance_run(replay_checkpoint.model, coalesce(replay_checkpoint.anew, false));
    RETURN pg_catalog.jsonb_build_object(
        'model', replay_checkpoint.model,
        'verdict', v_progress.verdict,
        'until', v_progress.until_at,
        'events_verified', coalesce((v_progress.outcome ->> 'events')::bigint, 0),
        'new_events', v_progress.new_events,
        'transactions', coalesce((v_progress.outcome ->> 'transactions')::bigint, 0),
        'violations_total', coalesce((v_progress.outcome ->> 'total')::bigint, 0),
        'began', CASE WHEN v_progress.anew IS NULL THEN 'saved' ELSE 'beginning' END,
        'reason', v_progress.anew,
        'not_covered', ARRAY(SELECT i.name FROM threadline.replay_invariants i WHERE i.model = replay_checkpoint.model AND i.kind = 'query' ORDER BY i.no));
END
$$;
COMMENT ON FUNCTION threadline.replay_checkpoint(text, boolean) IS
$$Checks a model's history up to the latest time that no transaction can commit before any more, and saves how far it came: replay_check(model) and the next replay_checkpoint(model) go on from there and cost only what is new. The answers are those of a run from the beginning.
A saved run is of no more use, and the next begins anew by itself, when the model was defined otherwise, a table of it got a baseline, other columns, a gap or a purge, or search_path, TimeZone or DateStyle are others. A function that expressions call is not looked into: anew => true begins at the beginning.
JSON: model, verdict (holds, violated, unknown), until (how far), events_verified (in all), new_events, transactions, violations_total, began (saved or beginning), reason (why at the beginning), not_covered (invariants of kind query, which each check runs in full). Expressions run as the caller. Errors: 42704 no such model, 25006 in a READ ONLY transaction or on a standby; and those of replay_check.$$;

CREATE TABLE threadline.replay_monitor (
    model       text        NOT NULL PRIMARY KEY REFERENCES threadline.replay_model ON DELETE CASCADE,
    notify      text,
    enabled     boolean     NOT NULL,
    definitions text        NOT NULL,                  -- of the model when its definer last looked, as a hash
    defined_by  name        NOT NULL DEFAULT session_user,
    defined_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    run_at      timestamptz,
    verdict     text,
    error       text
);

CREATE TABLE threadline.replay_failure (
    model             text        NOT NULL REFERENCES threadline.replay_model ON DELETE CASCADE,
    invariant         text        NOT NULL,
    found_key         jsonb       NOT NULL,            -- as the engine tells it: null for a row, which change_id names
    key               jsonb,
    change_id         bigint      NOT NULL,
    table_id          integer,
    transaction_id    uuid,
    at                timestamptz,
    first_repaired_at timestamptz,
    fingerprint       text        NOT NULL,
    document          jsonb       NOT NULL,
    recorded_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- A key may be longer than an entry of an index.
CREATE UNIQUE INDEX replay_failure_idx ON threadline.replay_failure (model, invariant, change_id, pg_catalog.hashtextextended(found_key::text, 0));

SELECT pg_catalog.pg_extension_config_dump('threadline.replay_monitor', '');
SELECT pg_catalog.pg_extension_config_dump('threadline.replay_failure', '');

CREATE VIEW threadline.replay_monitors AS
SELECT m.model, m.notify, m.enabled, m.definitions, m.defined_by, m.defined_at, m.run_at, m.verdict,
       -- A message may hold values of rows.
       CASE WHEN m.verdict OPERATOR(pg_catalog.<>) 'error'
              OR NOT EXISTS (SELECT FROM threadline.replay_invariant i CROSS JOIN LATERAL unnest(i.table_id || i.more_tables) AS t (table_id)
                             WHERE i.model OPERATOR(pg_catalog.=) m.model AND t.table_id OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT r.table_id FROM threadline.readable_table r)))
                 AND NOT EXISTS (SELECT FROM threadline.replay_projection p
                                 WHERE p.model OPERATOR(pg_catalog.=) m.model AND p.table_id OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT r.table_id FROM threadline.readable_table r)))
            THEN m.error END AS error,
       s.until_at
FROM threadline.replay_monitor m
LEFT JOIN threadline.replay_saved_run s ON s.model = m.model;
COMMENT ON VIEW threadline.replay_monitors IS 'The monitors, who defined each, and how its last run went; error: why it was skipped or failed, the latter for who may read the tables; until_at: how far its model is verified.';

CREATE VIEW threadline.replay_failures WITH (security_barrier) AS
SELECT f.model, f.invariant, f.key, f.change_id, f.transaction_id, f.at, f.first_repaired_at, f.fingerprint, f.recorded_at, f.document, f.found_key
FROM threadline.replay_failure f
WHERE f.table_id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT t.table_id FROM threadline.readable_table t));
COMMENT ON VIEW threadline.replay_failures IS 'Violations that monitors found, of tables that the reader may read. first_repaired_at: when it was repaired, or when a later run did not find it any more. document: the violation as replay_check() tells it.';

-- What a model's definitions come to. While the transaction lasts they stay: store_invariant and store_projection wait.
CREATE FUNCTION threadline.hold_definitions(p_model text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM threadline.replay_model m WHERE m.model = p_model FOR SHARE;
    RETURN (
        SELECT encode(sha256(convert_to(coalesce(string_agg(d.definition, E'\n' ORDER BY d.definition), ''), 'UTF8')), 'hex')
        FROM (SELECT concat_ws('|', 'i', i.name, i.kind, i.spec, i.check_at, i.table_id, i.more_tables, i.projection) FROM threadline.replay_invariant i WHERE i.model = p_model
              UNION ALL
              SELECT concat_ws('|', 'p', p.name, p.table_id, p.key, p.init, p.step, p.mapping) FROM threadline.replay_projection p WHERE p.model = p_model) AS d (definition));
END
$$;

-- Whether the session's user, who is about to change a definition, is the one that the monitor trusts, and the definitions are known to him.
CREATE FUNCTION threadline.monitor_follows(p_model text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM threadline.replay_model m WHERE m.model = p_model FOR UPDATE;
    RETURN EXISTS (SELECT FROM threadline.replay_monitor m WHERE m.model = p_model AND m.defined_by = session_user AND m.definitions = threadline.hold_definitions(p_model));
END
$$;

CREATE FUNCTION threadline.monitor_follow(p_model text, p_follows boolean) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE threadline.replay_monitor m SET definitions = threadline.hold_definitions(p_model) WHERE m.model = p_model AND p_follows
$$;

CREATE FUNCTION threadline.replay_monitor(model text, notify text = NULL, enabled boolean = true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM threadline.require_model(replay_monitor.model);
    IF replay_monitor.notify = '' OR octet_length(replay_monitor.notify) > 63 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('"%s" is no name of a channel', replay_monitor.notify),
            DETAIL = 'It has 1 to 63 bytes.',
            HINT = format('SELECT threadline.replay_monitor(%L, notify => ''failures''); LISTEN failures;', replay_monitor.model);
    END IF;
    INSERT INTO threadline.replay_monitor AS m (model, notify, enabled, definitions)
    VALUES (replay_monitor.model, replay_monitor.notify, coalesce(replay_monitor.enabled, true), threadline.hold_definitions(replay_monitor.model))
    ON CONFLICT ON CONSTRAINT replay_monitor_pkey
    DO UPDATE SET notify = excluded.notify, enabled = excluded.enabled, definitions = excluded.definitions, defined_by = excluded.defined_by, defined_at = excluded.defined_at;
END
$$;
COMMENT ON FUNCTION threadline.replay_monitor(text, text, boolean) IS
$$Defines the monitor of a model, or changes it: replay_run_monitors(), and audit_maintain(), then check what is new and record failures in replay_failures. notify: a channel on which each new failure is told once, as JSON: model, invariant, key, change_id, fingerprint. enabled => false: it rests.
Whoever calls this answers for the model's expressions as they are now: the monitor is run only by roles that he can act as anyway, and no more once somebody else changed a definition, until this is called again. Errors: 42704 no such model, 22023 the channel.$$;

-- Why a monitor does not run as the caller; NULL if it may. Its expressions have the caller's rights, and those of the session's user
-- if they care to.
CREATE FUNCTION threadline.monitor_refusal(p_model text, p_defined_by name, p_definitions text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = p_defined_by) THEN
        RETURN format('role "%s", who defined the monitor, does not exist; SELECT threadline.replay_monitor(%L); takes it over', p_defined_by, p_model);
    ELSIF NOT pg_has_role(p_defined_by, current_user, 'MEMBER') OR NOT pg_has_role(p_defined_by, session_user, 'MEMBER') THEN
        RETURN format('role "%s", who defined the monitor, would act with the rights of "%s"; have it run by "%1$s", or, once you looked at the model: SELECT threadline.replay_monitor(%3$L);',
                      p_defined_by, current_user, p_model);
    ELSIF threadline.hold_definitions(p_model) <> p_definitions THEN
        RETURN format('somebody else than "%s" changed the model; once you looked at it: SELECT threadline.replay_monitor(%L);', p_defined_by, p_model);
    END IF;
    RETURN NULL;
END
$$;

-- By the owner's right. p_found: of each violation invariant, key, change_id, repaired_at and, of those not recorded yet, the document.
-- p_from, p_until: failures recorded of changes from there on that are not among them are over; NULL where not all could be told.
-- Returns those that were new.
CREATE FUNCTION threadline.record_failures(p_model text, p_found jsonb, p_from bigint, p_until timestamptz) RETURNS SETOF jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE threadline.replay_failure f SET first_repaired_at = g.repaired_at
    FROM (SELECT g.value ->> 'invariant' AS invariant, g.value -> 'key' AS key, (g.value ->> 'change_id')::bigint AS change_id, (g.value ->> 'repaired_at')::timestamptz AS repaired_at
          FROM jsonb_array_elements(p_found) AS g (value)) g
    WHERE f.model = p_model AND f.invariant = g.invariant AND f.change_id = g.change_id AND f.found_key = g.key
      AND f.first_repaired_at IS DISTINCT FROM g.repaired_at;
    UPDATE threadline.replay_failure f SET first_repaired_at = p_until
    WHERE f.model = p_model AND f.first_repaired_at IS NULL AND f.change_id >= p_from
      AND NOT EXISTS (SELECT FROM jsonb_array_elements(p_found) AS g (value)
                      WHERE g.value ->> 'invariant' = f.invariant AND (g.value ->> 'change_id')::bigint = f.change_id AND g.value -> 'key' = f.found_key);
    RETURN QUERY
    INSERT INTO threadline.replay_failure AS f (model, invariant, found_key, key, change_id, table_id, transaction_id, at, first_repaired_at, fingerprint, document)
    SELECT p_model, g.value ->> 'invariant', g.value -> 'key', g.value #> '{document,key}', (g.value ->> 'change_id')::bigint,
           (SELECT c.table_id FROM threadline.stored_change c WHERE c.id = (g.value ->> 'change_id')::bigint),
           (g.value #>> '{document,transaction,id}')::uuid, (g.value #>> '{document,at}')::timestamptz, (g.value ->> 'repaired_at')::timestamptz,
           g.value #>> '{document,fingerprint}', g.value -> 'document'
    FROM jsonb_array_elements(p_found) WITH ORDINALITY AS g (value, n)
    WHERE g.value ? 'document'
    ORDER BY g.n
    ON CONFLICT DO NOTHING
    RETURNING jsonb_build_object('model', f.model, 'invariant', f.invariant, 'key', f.key, 'change_id', f.change_id, 'fingerprint', f.fingerprint);
END
$$;

-- Records what a run found, and tells of what is new. Returns how many that were.
CREATE FUNCTION threadline.note_failures(p_progress threadline.run_progress, p_notify text) RETURNS integer
LANGUAGE plpgsql SET jit = off
AS $$
DECLARE
    v_request constant threadline.replay_request := (p_progress).request;
    v_outcome constant jsonb := (p_progress).outcome;
    v_is_new constant boolean[] := ARRAY(
        SELECT NOT EXISTS (SELECT FROM threadline.replay_failures r
                           WHERE r.model = v_request.model AND r.invariant = v_request.invariants[(f.value ->> 'invariant')::integer + 1]
                             AND r.change_id = (f.value ->> 'change_id')::bigint AND r.found_key = f.value -> 'key')
        FROM pg_catalog.jsonb_array_elements(v_outcome -> 'violations') WITH ORDINALITY AS f (value, n) ORDER BY f.n);
    v_documents constant jsonb := threadline.violations_of_run(v_request, (
        SELECT coalesce(pg_catalog.jsonb_agg(f.value ORDER BY f.n) FILTER (WHERE v_is_new[f.n]), '[]')
        FROM pg_catalog.jsonb_array_elements(v_outcome -> 'violations') WITH ORDINALITY AS f (value, n)));
    v_found jsonb;
    v_new jsonb;
    v_count integer := 0;
BEGIN
    SELECT coalesce(pg_catalog.jsonb_agg(
        pg_catalog.jsonb_build_object('invariant', coalesce(d.document ->> 'invariant', v_request.invariants[(f.value ->> 'invariant')::integer + 1]), 'key', f.value -> 'key',
                                      'change_id', f.value -> 'change_id', 'repaired_at', threadline.from_engine_time((f.value ->> 'repaired_at')::bigint))
        || CASE WHEN d.document IS NOT NULL THEN pg_catalog.jsonb_build_object('document', d.document) ELSE '{}' END ORDER BY f.n), '[]') INTO v_found
    FROM (SELECT f.value, f.n, CASE WHEN v_is_new[f.n] THEN count(*) FILTER (WHERE v_is_new[f.n]) OVER (ORDER BY f.n) END AS document_no
          FROM pg_catalog.jsonb_array_elements(v_outcome -> 'violations') WITH ORDINALITY AS f (value, n)) f
    LEFT JOIN pg_catalog.jsonb_array_elements(v_documents) WITH ORDINALITY AS d (document, no) ON d.no = f.document_no;
    FOR v_new IN
        SELECT n.value FROM threadline.record_failures(v_request.model, v_found,
            CASE WHEN pg_catalog.jsonb_array_length(v_found) = (v_outcome ->> 'total')::bigint
                 THEN (SELECT pg_catalog.min(s.changes_from) FROM pg_catalog.unnest(v_request.sources) s WHERE s.projection IS NULL) END,
            (p_progress).until_at) AS n (value)
    LOOP
        v_count := v_count + 1;
        IF p_notify IS NOT NULL THEN
            -- A payload has less than 8000 bytes.
            PERFORM pg_catalog.pg_notify(p_notify, (CASE WHEN pg_catalog.octet_length(v_new::text) < 7900 THEN v_new ELSE v_new - 'key' END)::text);
        END IF;
    END LOOP;
    RETURN v_count;
END
$$;

CREATE FUNCTION threadline.note_monitor_run(p_model text, p_verdict text, p_error text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE threadline.replay_monitor m SET run_at = clock_timestamp(), verdict = p_verdict, error = p_error WHERE m.model = p_model
$$;

CREATE FUNCTION threadline.replay_run_monitors() RETURNS TABLE (model text, verdict text, new_events bigint, new_violations integer, error text)
LANGUAGE plpgsql
AS $$
DECLARE
    v_monitor record;
    v_progress threadline.run_progress;
BEGIN
    FOR v_monitor IN SELECT m.* FROM threadline.replay_monitors m WHERE m.enabled ORDER BY m.model LOOP
        model := v_monitor.model;
        new_events := 0;
        new_violations := 0;
        error := threadline.monitor_refusal(v_monitor.model, v_monitor.defined_by, v_monitor.definitions);
        IF error IS NOT NULL THEN
            verdict := 'skipped';
        ELSE
            BEGIN
                v_progress := threadline.advance_run(v_monitor.model, false);
                verdict := v_progress.verdict;
                IF v_progress.outcome IS NOT NULL THEN
                    new_violations := threadline.note_failures(v_progress, v_monitor.notify);
                END IF;
                new_events := v_progress.new_events;
            EXCEPTION WHEN OTHERS THEN
                verdict := 'error';
                new_violations := 0;
                error := pg_catalog.format('%s (SQLSTATE %s)', SQLERRM, SQLSTATE);
            END;
        END IF;
        PERFORM threadline.note_monitor_run(v_monitor.model, verdict, error);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION threadline.replay_run_monitors() IS
$$Runs each enabled monitor (replay_monitor): a replay_checkpoint() of its model, whose failures not seen before are recorded in replay_failures and told on the monitor's channel when the transaction commits; those repaired since are marked. Costs only what is new. audit_maintain() calls it.
Expressions run with the caller's rights. So a monitor is skipped, and error says what to do, unless the role that defined it could act as the caller anyway and nobody else changed its model since. One monitor's error does not keep the others from running. Invariants of kind query are not run. verdict: holds, violated, unknown, error or skipped. Errors: 25006 in a READ ONLY transaction that has a monitor to run.$$;

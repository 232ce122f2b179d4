-- What a run found, as the documents of the contract.

-- What is told of changes with their violations, by id: of a table's the change in audit_changes, the rows before and after it and the
-- transaction; of an external log the event. Read together, for a log may be long.
CREATE FUNCTION threadline.known_changes(p_request threadline.replay_request, p_ids bigint[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_known jsonb;
BEGIN
    IF p_ids = '{}' THEN
        RETURN '{}';
    ELSIF p_request.events IS NULL THEN
        SELECT pg_catalog.jsonb_object_agg(c.id::text, pg_catalog.jsonb_build_object(
                   'event', pg_catalog.jsonb_build_object('id', c.id, 'transaction_id', c.transaction_id, 'table_schema', c.table_schema, 'table_name', c.table_name, 'table_pk', c.table_pk, 'old_pk', c.old_pk,
                                                          'op', c.op_name, 'changed_fields', c.changed_fields, 'changed_from', c.old_image, 'data_after', c.new_image, 'captured_at', c.captured_at,
                                                          'statement_no', c.statement_no, 'schema_version', c.schema_version),
                   'key', CASE WHEN pg_catalog.cardinality(c.key_columns) = 1 THEN pg_catalog.jsonb_build_array(c.key) WHEN c.table_pk IS NOT NULL THEN c.key::jsonb END,
                   'before', CASE WHEN c.op IN (0, 1) THEN c.old_image WHEN c.op = 5 THEN c.new_image || coalesce(c.old_image, '{}') END,
                   'transaction', pg_catalog.jsonb_build_object('id', c.transaction_id, 'commit_no', x.commit_no, 'committed_at', x.committed_at, 'actor_ref', x.actor_ref, 'action_id', x.action_id,
                                                                'correlation_id', x.correlation_id, 'request_id', x.request_id, 'job_id', x.job_id))) INTO v_known
        FROM threadline.readable_change c
        LEFT JOIN LATERAL (SELECT x.* FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x ON true
        WHERE c.id = ANY (p_ids);
    ELSE
        EXECUTE pg_catalog.format(E'SELECT pg_catalog.jsonb_object_agg(e.seq::text, pg_catalog.jsonb_build_object(''at'', e.at, ''event'', e.event)) FROM (%s\n) AS e (seq, at, event) WHERE e.seq = ANY ($1)', p_request.events)
        INTO v_known USING p_ids;
    END IF;
    RETURN coalesce(v_known, '{}');
END
$$;

-- What is told of a table's changes that led to a violation, by id.
CREATE FUNCTION threadline.led_changes(p_ids bigint[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT jsonb_object_agg(c.id::text, jsonb_build_object('change_id', c.id, 'transaction_id', c.transaction_id, 'table_name', c.table_name, 'table_pk', c.table_pk, 'op', c.op_name,
                                                               'changed_fields', c.changed_fields, 'changed_from', c.old_image, 'data_after', c.new_image, 'captured_at', c.captured_at))
        FROM threadline.readable_change c
        WHERE c.id = ANY (p_ids));
END
$$;

-- The row before and after a change, and the transaction.
CREATE TYPE threadline.replay_change AS (
    table_schema text,
    table_name   text,
    table_pk     jsonb,
    old_pk       jsonb,
    op           text,
    changed      text[],
    before       jsonb,
    after        jsonb,
    transaction  jsonb,
    table_id     integer,
    row_key      bigint,
    key          text
);

CREATE FUNCTION threadline.run_change(p_id bigint) RETURNS threadline.replay_change
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_change threadline.replay_change;
BEGIN
    SELECT c.table_schema, c.table_name, c.table_pk, c.old_pk, c.op_name, c.changed_fields,
           CASE WHEN c.op IN (0, 1) THEN c.old_image WHEN c.op = 5 THEN c.new_image || coalesce(c.old_image, '{}') END, c.new_image,
           jsonb_build_object('id', c.transaction_id, 'commit_no', x.commit_no, 'committed_at', x.committed_at, 'actor_ref', x.actor_ref, 'action_id', x.action_id,
                              'correlation_id', x.correlation_id, 'request_id', x.request_id, 'job_id', x.job_id),
           c.table_id, c.row_key, c.key
    INTO v_change
    FROM threadline.readable_change c
    LEFT JOIN threadline.readable_transaction x ON x.id = c.transaction_id
    WHERE c.id = p_id;
    RETURN v_change;
END
$$;

-- The same failure has the same: what it says of values is left out.
CREATE FUNCTION threadline.failure_fingerprint(p_model text, p_invariant text, p_kind text, p_table text, p_op text, p_changed text[], p_reason text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN left(encode(sha256(convert_to(concat_ws('|', p_model, p_invariant, p_kind, p_table, p_op, array_to_string(p_changed, ','),
    regexp_replace(regexp_replace(p_reason, '''[^'']*''|"[^"]*"', '<TEXT>', 'g'), '-?\d+(\.\d+)?', '<NUM>', 'g')), 'UTF8')), 'hex'), 16);

CREATE TYPE threadline.change_ids AS (ids bigint[]);

-- Violations that a run found, as they are told, in the same order. One query for all: to call functions for each takes longer than the answers.
CREATE FUNCTION threadline.violations_of_run(p_request threadline.replay_request, p_found jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_of_tables constant boolean := p_request.events IS NULL;
    v_since constant bigint := threadline.engine_time(p_request.since);
    v_named constant integer := pg_catalog.cardinality(p_request.invariants);
    v_projections constant text[] := ARRAY(SELECT s.projection FROM pg_catalog.unnest(p_request.sources) s ORDER BY s.n);
    v_leading threadline.change_ids[];
    v_ids bigint[];
    v_known jsonb;
    v_led jsonb;
BEGIN
    -- The changes that led to each, the last 10 of its key: the engine knows those of keys that are no rows.
    SELECT pg_catalog.array_agg(ROW(l.ids)::threadline.change_ids ORDER BY f.n) INTO v_leading
    FROM pg_catalog.jsonb_array_elements(p_found) WITH ORDINALITY AS f (found, n)
    CROSS JOIN LATERAL (SELECT (f.found ->> 'change_id')::bigint AS id, NOT v_of_tables OR f.found -> 'key' <> 'null' AND f.found -> 'recent' <> '[]' AS is_known OFFSET 0) c
    LEFT JOIN LATERAL (SELECT p.table_id, p.row_key, p.key FROM threadline.readable_change p WHERE p.id = c.id AND NOT c.is_known OFFSET 0) p ON true
    CROSS JOIN LATERAL (
        SELECT c.id || CASE
            WHEN c.is_known THEN ARRAY(SELECT r.id::bigint FROM pg_catalog.jsonb_array_elements_text(f.found -> 'recent') AS r (id) WHERE r.id::bigint <> c.id)
            ELSE ARRAY(SELECT e.id FROM threadline.readable_place_newest e WHERE e.table_id = p.table_id AND e.row_key = p.row_key AND e.key = p.key AND e.id < c.id AND e.op <> 2 LIMIT 9)
        END AS ids) l;
    v_ids := ARRAY(SELECT DISTINCT i.id FROM pg_catalog.unnest(v_leading) u CROSS JOIN LATERAL pg_catalog.unnest(u.ids) AS i (id));
    IF v_of_tables THEN
        v_known := threadline.known_changes(p_request, ARRAY(SELECT DISTINCT u.ids[1] FROM pg_catalog.unnest(v_leading) u));
        v_led := threadline.led_changes(v_ids);
    ELSE
        v_known := threadline.known_changes(p_request, v_ids);
        v_led := v_known;
    END IF;
    RETURN (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'invariant', w.name, 'kind', w.kind, 'severity', coalesce(i.severity, 'error'), 'check_at', i.check_at,
            'key', CASE WHEN w.kind = 'balance' AND i.spec ->> 'group' IS NULL THEN '[]' WHEN f.found -> 'key' <> 'null' THEN f.found -> 'key' WHEN v_of_tables THEN k.change -> 'key' ELSE e.key END,
            'table_schema', k.event -> 'table_schema', 'table_name', CASE WHEN v_of_tables THEN k.event ->> 'table_name' ELSE w.table_name END,
            'table_pk', CASE WHEN v_of_tables THEN k.event -> 'table_pk' ELSE e.table_pk END,
            'failure_reason', f.found -> 'reason', 'failure_step', f.found -> 'step', 'change_id', f.ids[1],
            'event_at_failure', CASE WHEN f.found -> 'event' <> 'null' THEN f.found -> 'event' ELSE k.event END,
            'state_before', w.before, 'state_after', w.after,
            'state_diff', (
                SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', d.name)
                                                     || CASE WHEN w.before ? d.name THEN pg_catalog.jsonb_build_object('before', w.before -> d.name) ELSE '{}' END
                                                     || CASE WHEN w.after ? d.name THEN pg_catalog.jsonb_build_object('after', w.after -> d.name) ELSE '{}' END
                                                     ORDER BY d.name COLLATE "C"), '[]')
                FROM pg_catalog.jsonb_object_keys(CASE WHEN pg_catalog.jsonb_typeof(w.before) = 'object' THEN w.before ELSE '{}' END
                                                  || CASE WHEN pg_catalog.jsonb_typeof(w.after) = 'object' THEN w.after ELSE '{}' END) AS d (name)
                WHERE (w.before -> d.name)::text IS DISTINCT FROM (w.after -> d.name)::text),
            'events_leading_to_failure', (
                SELECT coalesce(pg_catalog.jsonb_agg(CASE WHEN v_of_tables THEN l.change ELSE l.change || pg_catalog.jsonb_build_object('change_id', l.id) END ORDER BY l.id), '[]')
                FROM (SELECT u.id, v_led -> u.id::text AS change FROM pg_catalog.unnest(f.ids) AS u (id) OFFSET 0) l
                WHERE l.change IS NOT NULL),
            'transaction', k.change -> 'transaction',
            'at', threadline.from_engine_time((f.found ->> 'time')::bigint),
            'already_false', CASE WHEN (f.found ->> 'found_at')::bigint <= v_since THEN true END,
            'first_repaired_at', threadline.from_engine_time((f.found ->> 'repaired_at')::bigint),
            'fingerprint', threadline.failure_fingerprint(p_request.model, w.name, w.kind, w.table_name, k.event ->> 'op',
                ARRAY(SELECT c.name FROM pg_catalog.jsonb_array_elements_text(CASE WHEN pg_catalog.jsonb_typeof(k.event -> 'changed_fields') = 'array' THEN k.event -> 'changed_fields' ELSE '[]' END) AS c (name)),
                f.found ->> 'reason')) ORDER BY f.n), '[]')
        FROM ROWS FROM (pg_catalog.jsonb_array_elements(p_found), pg_catalog.unnest(v_leading)) WITH ORDINALITY AS f (found, ids, n)
        CROSS JOIN LATERAL (SELECT c.change, c.change -> 'event' AS event FROM (SELECT v_known -> f.ids[1]::text AS change OFFSET 0) c OFFSET 0) k
        LEFT JOIN threadline.replay_invariants i ON i.model = p_request.model AND i.name = p_request.invariants[(f.found ->> 'invariant')::integer + 1]
        CROSS JOIN LATERAL (SELECT CASE WHEN i.name IS NULL THEN v_projections[(f.found ->> 'invariant')::integer - v_named + 1] END AS projection OFFSET 0) s
        CROSS JOIN LATERAL (
            SELECT CASE WHEN i.name IS NOT NULL THEN i.name WHEN s.projection IS NULL THEN 'history_is_continuous' ELSE pg_catalog.format('%s_does_not_fail', s.projection) END AS name,
                   CASE WHEN i.name IS NOT NULL THEN i.kind WHEN s.projection IS NULL THEN 'integrity' ELSE 'error' END AS kind,
                   CASE WHEN v_of_tables THEN pg_catalog.format('%s.%s', k.event ->> 'table_schema', k.event ->> 'table_name') ELSE k.event ->> 'table' END AS table_name,
                   nullif(CASE WHEN f.found -> 'states' <> 'null' THEN f.found #> '{states,0}' WHEN v_of_tables THEN k.change -> 'before' ELSE k.event -> 'old' END, 'null') AS before,
                   nullif(CASE WHEN f.found -> 'states' <> 'null' THEN f.found #> '{states,1}' WHEN v_of_tables THEN k.event -> 'data_after' ELSE k.event -> 'new' END, 'null') AS after
            OFFSET 0) w
        LEFT JOIN LATERAL (
            -- Whose row it is says the table's key.
            SELECT pg_catalog.jsonb_object_agg(c.name, r.image -> c.name) AS table_pk, pg_catalog.jsonb_agg(r.image ->> c.name ORDER BY c.n) AS key
            FROM (SELECT coalesce(nullif(k.event -> 'new', 'null'), k.event -> 'old') AS image OFFSET 0) r
            CROSS JOIN pg_catalog.unnest(p_request.sources) t
            JOIN threadline.readable_table d ON d.table_id = t.table_id
            CROSS JOIN LATERAL pg_catalog.unnest(d.key_columns) WITH ORDINALITY AS c (name, n)
            WHERE NOT v_of_tables AND t.projection IS NULL AND threadline.qualified_name(t.relation) = w.table_name) e ON true);
END
$$;

-- How many violations of each invariant there are; name is NULL of those that a model has without defining them.
CREATE FUNCTION threadline.violation_counts(p_request threadline.replay_request, p_outcome jsonb, p_queries jsonb = NULL) RETURNS TABLE (name text, severity text, violations bigint)
LANGUAGE sql STABLE
AS $$
    SELECT i.name, coalesce(i.severity, 'error'), c.value::bigint
    FROM pg_catalog.jsonb_array_elements_text(p_outcome -> 'counts') WITH ORDINALITY AS c (value, n)
    LEFT JOIN threadline.replay_invariants i ON i.model = (p_request).model AND i.name = (p_request).invariants[c.n]
    UNION ALL
    SELECT i.name, i.severity, c.value::bigint
    FROM pg_catalog.jsonb_each_text(p_queries -> 'counts') AS c (name, value)
    JOIN threadline.replay_invariants i ON i.model = (p_request).model AND i.name = c.name
$$;

-- p_queries: what watch_queries found, if there are invariants of kind query.
CREATE FUNCTION threadline.result_of_run(p_request threadline.replay_request, p_outcome jsonb, p_states jsonb, p_queries jsonb = NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET jit = off
AS $$
DECLARE
    v_told jsonb;
    v_violations jsonb;
    v_failure jsonb;
    v_doubts constant jsonb := threadline.run_doubts(p_request, p_outcome) || coalesce(p_queries -> 'doubts', '[]');
    v_total constant bigint := (SELECT coalesce(pg_catalog.sum(c.violations), 0) FROM threadline.violation_counts(p_request, p_outcome, p_queries) c);
    v_rows jsonb;
    v_first bigint;
    v_pending jsonb;
BEGIN
    IF p_request.stop THEN
        v_first := (SELECT pg_catalog.min(v.no) FROM pg_catalog.jsonb_array_elements(p_outcome -> 'violations') WITH ORDINALITY AS v (value, no)
                    WHERE NOT coalesce((p_request.plan #> ARRAY['invariants', v.value ->> 'invariant', 'is_warning'])::boolean, false));
    END IF;
    v_told := CASE WHEN v_first IS NOT NULL THEN pg_catalog.jsonb_build_array(p_outcome -> 'violations' -> (v_first - 1)::integer) ELSE p_outcome -> 'violations' END;
    v_violations := threadline.violations_of_run(p_request, v_told);
    v_pending := threadline.known_changes(p_request, ARRAY(SELECT (p.value ->> 'change_id')::bigint FROM pg_catalog.jsonb_array_elements(p_outcome -> 'pending') AS p (value) WHERE p.value -> 'key' = 'null'));
    IF p_queries -> 'violations' <> '[]' THEN
        v_violations := threadline.merge_violations(p_request, v_told, v_violations, p_queries -> 'violations');
    END IF;
    IF p_request.stop THEN
        v_failure := (SELECT v.value FROM pg_catalog.jsonb_array_elements(v_violations) WITH ORDINALITY AS v (value, no) WHERE v.value ->> 'severity' = 'error' ORDER BY v.no LIMIT 1);
        v_violations := CASE WHEN v_failure IS NOT NULL THEN pg_catalog.jsonb_build_array(v_failure) ELSE v_violations END;
    END IF;
    SELECT coalesce(pg_catalog.jsonb_object_agg(threadline.qualified_name(s.relation), p_outcome #> ARRAY['rows', s.n::text]), '{}') INTO v_rows
    FROM pg_catalog.unnest(p_request.sources) s WHERE s.projection IS NULL;
    RETURN pg_catalog.jsonb_build_object(
        'verdict', CASE WHEN EXISTS (SELECT FROM threadline.violation_counts(p_request, p_outcome, p_queries) c WHERE c.severity = 'error' AND c.violations > 0) THEN 'violated' WHEN v_doubts <> '[]' THEN 'unknown' ELSE 'holds' END,
        'what', p_request.model,
        'events_processed', p_outcome -> 'events',
        'transactions', p_outcome -> 'transactions',
        'final_state', CASE WHEN v_rows = '{}' THEN coalesce((SELECT p_states -> s.projection FROM pg_catalog.unnest(p_request.sources) s WHERE s.projection IS NOT NULL ORDER BY s.n LIMIT 1), 'null')
                            ELSE pg_catalog.jsonb_build_object('rows', v_rows) END,
        'projections', p_states,
        'skipped', p_outcome -> 'skipped',
        'complete', v_doubts = '[]',
        'coverage', pg_catalog.jsonb_build_object('complete', v_doubts = '[]', 'gaps', v_doubts,
            'baseline_at', (SELECT pg_catalog.max(s.since) FROM pg_catalog.unnest(p_request.sources) s WHERE s.projection IS NULL)),
        'not_compared', coalesce((SELECT pg_catalog.jsonb_agg(DISTINCT d.value -> 'column') FROM pg_catalog.jsonb_array_elements(v_doubts) AS d (value) WHERE d.value ->> 'reason' = 'redacted'), '[]'),
        'invariants', (
            SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', i.name, 'kind', i.kind, 'severity', i.severity,
                       'verdict', CASE WHEN v.violations > 0 THEN 'violated' WHEN v_doubts <> '[]' THEN 'unknown' WHEN v_failure IS NOT NULL THEN 'unknown' ELSE 'holds' END,
                       'violations', v.violations) ORDER BY i.no), '[]')
            FROM threadline.replay_invariants i
            CROSS JOIN LATERAL (
                SELECT CASE WHEN v_failure IS NOT NULL THEN (SELECT count(*) FROM pg_catalog.jsonb_array_elements(v_violations) AS v (value) WHERE v.value ->> 'invariant' = i.name)
                            ELSE (SELECT c.violations FROM threadline.violation_counts(p_request, p_outcome, p_queries) c WHERE c.name = i.name) END AS violations) v
            WHERE i.model = p_request.model AND i.name = ANY (p_request.invariants || p_request.queries)),
        'pending', (
            SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('invariant', p.value -> 'invariant', 'change_id', p.value -> 'change_id', 'due', threadline.from_engine_time((p.value ->> 'due')::bigint),
                       'key', CASE WHEN p.value -> 'key' <> 'null' THEN p.value -> 'key' ELSE v_pending -> (p.value ->> 'change_id') -> 'key' END) ORDER BY p.no), '[]')
            FROM pg_catalog.jsonb_array_elements(p_outcome -> 'pending') WITH ORDINALITY AS p (value, no)),
        'violations_total', CASE WHEN v_failure IS NOT NULL THEN 1 ELSE v_total END,
        'violations', v_violations,
        'request', pg_catalog.jsonb_build_object('model', p_request.model, 'since', p_request.since, 'until', p_request.until, 'stop_on_first_failure', p_request.stop,
            'invariants', p_request.invariants || p_request.queries,
            'projections', ARRAY(SELECT s.projection FROM pg_catalog.unnest(p_request.sources) s WHERE s.projection IS NOT NULL), 'events', p_request.events));
END
$$;

CREATE FUNCTION threadline.check_model(p_request threadline.replay_request) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_run record;
    v_queries jsonb;
BEGIN
    v_run := threadline.execute_request(p_request);
    IF pg_catalog.cardinality(p_request.queries) > 0 THEN
        v_queries := threadline.watch_queries(p_request, v_run.outcome);
    END IF;
    RETURN threadline.result_of_run(p_request, v_run.outcome, v_run.states, v_queries) || CASE WHEN v_queries IS NOT NULL THEN pg_catalog.jsonb_build_object('query_runs', v_queries -> 'runs') ELSE '{}' END;
END
$$;

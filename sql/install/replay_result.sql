-- What a run found, as the documents of the contract.

-- What is told of changes with their violations, by id: of a table's the change in audit_changes, the rows before and after it and the
-- transaction; of an external log the event. Read together, for a log may be long.
CREATE FUNCTION threadline.known_changes(p_request threadline.replay_request, p_ids bigint[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_known jsonb;
BEGIN
    IF p_request.events IS NULL THEN
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

CREATE FUNCTION threadline.state_difference(p_before jsonb, p_after jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('name', d.name)
                     || CASE WHEN p_before ? d.name THEN jsonb_build_object('before', p_before -> d.name) ELSE '{}' END
                     || CASE WHEN p_after ? d.name THEN jsonb_build_object('after', p_after -> d.name) ELSE '{}' END
                     ORDER BY d.name COLLATE "C"), '[]')
    FROM (SELECT jsonb_object_keys(CASE WHEN jsonb_typeof(p_before) = 'object' THEN p_before ELSE '{}' END)
          UNION SELECT jsonb_object_keys(CASE WHEN jsonb_typeof(p_after) = 'object' THEN p_after ELSE '{}' END)) AS d (name)
    WHERE (p_before -> d.name)::text IS DISTINCT FROM (p_after -> d.name)::text
$$;

-- The same failure has the same: what it says of values is left out.
CREATE FUNCTION threadline.failure_fingerprint(p_model text, p_invariant text, p_kind text, p_table text, p_op text, p_changed text[], p_reason text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN left(encode(sha256(convert_to(concat_ws('|', p_model, p_invariant, p_kind, p_table, p_op, array_to_string(p_changed, ','),
    regexp_replace(regexp_replace(p_reason, '''[^'']*''|"[^"]*"', '<TEXT>', 'g'), '-?\d+(\.\d+)?', '<NUM>', 'g')), 'UTF8')), 'hex'), 16);

CREATE TYPE threadline.change_ids AS (ids bigint[]);

-- The changes that led to a violation, the last 10 of its key: the engine knows those of keys that are no rows.
CREATE FUNCTION threadline.leading_changes(p_request threadline.replay_request, p_found jsonb) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_id constant bigint := (p_found ->> 'change_id')::bigint;
    v_place record;
BEGIN
    IF p_request.events IS NOT NULL OR p_found -> 'key' <> 'null' AND p_found -> 'recent' <> '[]' THEN
        RETURN v_id || ARRAY(SELECT r.id::bigint FROM jsonb_array_elements_text(p_found -> 'recent') AS r (id) WHERE r.id::bigint <> v_id);
    END IF;
    SELECT c.table_id, c.row_key, c.key INTO v_place FROM threadline.readable_place_newest c WHERE c.id = v_id LIMIT 1;
    RETURN v_id || ARRAY(SELECT c.id FROM threadline.readable_place_newest c
                         WHERE c.table_id = v_place.table_id AND c.row_key = v_place.row_key AND c.key = v_place.key AND c.id < v_id AND c.op <> 2 LIMIT 9);
END
$$;

CREATE FUNCTION threadline.violation_of_run(p_request threadline.replay_request, p_found jsonb, p_ids bigint[], p_known jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_name text := p_request.invariants[(p_found ->> 'invariant')::integer + 1];
    v_source threadline.replay_source;
    v_invariant record;
    v_id constant bigint := p_ids[1];
    v_change constant jsonb := p_known -> v_id::text;
    v_event jsonb := v_change -> 'event';
    v_event_key jsonb;
    v_before jsonb := p_found #> '{states,0}';
    v_after jsonb := p_found #> '{states,1}';
    v_key jsonb := p_found -> 'key';
    v_table text;
    v_pk jsonb := v_event -> 'table_pk';
BEGIN
    SELECT i.kind, i.severity, i.check_at, i.spec INTO v_invariant FROM threadline.replay_invariants i WHERE i.model = p_request.model AND i.name = v_name;
    IF v_name IS NULL THEN
        v_source := p_request.sources[(p_found ->> 'invariant')::integer - pg_catalog.cardinality(p_request.invariants) + 1];
        v_invariant.kind := CASE WHEN v_source.projection IS NULL THEN 'integrity' ELSE 'error' END;
        v_invariant.severity := 'error';
        v_name := CASE WHEN v_source.projection IS NULL THEN 'history_is_continuous' ELSE pg_catalog.format('%s_does_not_fail', v_source.projection) END;
    END IF;
    IF p_request.events IS NULL THEN
        v_table := pg_catalog.format('%s.%s', v_event ->> 'table_schema', v_event ->> 'table_name');
    ELSE
        v_table := v_event ->> 'table';
        SELECT pg_catalog.jsonb_object_agg(k.name, coalesce(nullif(v_event -> 'new', 'null'), v_event -> 'old') -> k.name),
               pg_catalog.jsonb_agg(coalesce(nullif(v_event -> 'new', 'null'), v_event -> 'old') ->> k.name ORDER BY k.n) INTO v_pk, v_event_key
        FROM pg_catalog.unnest(p_request.sources) s
        JOIN threadline.readable_table t ON t.table_id = s.table_id
        CROSS JOIN LATERAL pg_catalog.unnest(t.key_columns) WITH ORDINALITY AS k (name, n)
        WHERE s.projection IS NULL AND threadline.qualified_name(s.relation) = v_table;
    END IF;
    IF p_found -> 'states' = 'null' THEN
        v_before := CASE WHEN p_request.events IS NULL THEN v_change -> 'before' ELSE v_event -> 'old' END;
        v_after := CASE WHEN p_request.events IS NULL THEN v_event -> 'data_after' ELSE v_event -> 'new' END;
    END IF;
    v_before := nullif(v_before, 'null');
    v_after := nullif(v_after, 'null');
    IF v_invariant.kind = 'balance' AND v_invariant.spec ->> 'group' IS NULL THEN
        v_key := '[]';
    ELSIF v_key = 'null' THEN
        v_key := CASE WHEN p_request.events IS NULL THEN v_change -> 'key' ELSE v_event_key END;
    END IF;
    RETURN pg_catalog.jsonb_build_object(
        'invariant', v_name, 'kind', v_invariant.kind, 'severity', v_invariant.severity, 'check_at', v_invariant.check_at, 'key', v_key,
        'table_schema', v_event -> 'table_schema', 'table_name', CASE WHEN p_request.events IS NULL THEN v_event ->> 'table_name' ELSE v_table END, 'table_pk', v_pk,
        'failure_reason', p_found -> 'reason', 'failure_step', p_found -> 'step', 'change_id', v_id,
        'event_at_failure', CASE WHEN p_found -> 'event' <> 'null' THEN p_found -> 'event' ELSE v_event END,
        'state_before', v_before, 'state_after', v_after, 'state_diff', threadline.state_difference(v_before, v_after),
        'events_leading_to_failure', (
            SELECT coalesce(pg_catalog.jsonb_agg(
                       CASE WHEN p_request.events IS NULL THEN ((k.change -> 'event') - '{id,table_schema,old_pk,statement_no,schema_version}'::text[]) || pg_catalog.jsonb_build_object('change_id', i.id)
                            ELSE k.change || pg_catalog.jsonb_build_object('change_id', i.id) END ORDER BY i.id), '[]')
            FROM pg_catalog.unnest(p_ids) AS i (id) CROSS JOIN LATERAL (SELECT p_known -> i.id::text AS change) k
            WHERE k.change IS NOT NULL),
        'transaction', v_change -> 'transaction',
        'at', threadline.from_engine_time((p_found ->> 'time')::bigint),
        'already_false', CASE WHEN (p_found ->> 'found_at')::bigint <= threadline.engine_time(p_request.since) THEN true END,
        'first_repaired_at', threadline.from_engine_time((p_found ->> 'repaired_at')::bigint),
        'fingerprint', threadline.failure_fingerprint(p_request.model, v_name, v_invariant.kind, v_table, v_event ->> 'op',
            ARRAY(SELECT f.name FROM pg_catalog.jsonb_array_elements_text(CASE WHEN pg_catalog.jsonb_typeof(v_event -> 'changed_fields') = 'array' THEN v_event -> 'changed_fields' ELSE '[]' END) AS f (name)), p_found ->> 'reason'));
END
$$;

-- A violation by itself.
CREATE FUNCTION threadline.violation_of_run(p_request threadline.replay_request, p_found jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_ids constant bigint[] := threadline.leading_changes(p_request, p_found);
BEGIN
    RETURN threadline.violation_of_run(p_request, p_found, v_ids, threadline.known_changes(p_request, v_ids));
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
LANGUAGE plpgsql STABLE
-- To plan each look-up of each violation anew takes longer than the answers.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_told jsonb;
    v_violations jsonb;
    v_failure jsonb;
    v_doubts constant jsonb := threadline.run_doubts(p_request, p_outcome) || coalesce(p_queries -> 'doubts', '[]');
    v_total constant bigint := (SELECT coalesce(pg_catalog.sum(c.violations), 0) FROM threadline.violation_counts(p_request, p_outcome, p_queries) c);
    v_rows jsonb;
    v_first bigint;
    v_found jsonb[];
    v_ids threadline.change_ids[];
    v_known jsonb;
    v_pending jsonb;
BEGIN
    IF p_request.stop THEN
        v_first := (SELECT pg_catalog.min(v.no) FROM pg_catalog.jsonb_array_elements(p_outcome -> 'violations') WITH ORDINALITY AS v (value, no)
                    WHERE NOT coalesce((p_request.plan #> ARRAY['invariants', v.value ->> 'invariant', 'is_warning'])::boolean, false));
    END IF;
    v_told := CASE WHEN v_first IS NOT NULL THEN pg_catalog.jsonb_build_array(p_outcome -> 'violations' -> (v_first - 1)::integer) ELSE p_outcome -> 'violations' END;
    SELECT pg_catalog.array_agg(f.value ORDER BY f.no), pg_catalog.array_agg(ROW(f.ids)::threadline.change_ids ORDER BY f.no) INTO v_found, v_ids
    FROM (
        SELECT v.value, v.no, threadline.leading_changes(p_request, v.value) AS ids
        FROM pg_catalog.jsonb_array_elements(v_told) WITH ORDINALITY AS v (value, no)
    ) f;
    v_known := threadline.known_changes(p_request, ARRAY(SELECT DISTINCT i.id FROM pg_catalog.unnest(v_ids) u CROSS JOIN LATERAL pg_catalog.unnest(u.ids) AS i (id)));
    v_pending := threadline.known_changes(p_request, ARRAY(SELECT (p.value ->> 'change_id')::bigint FROM pg_catalog.jsonb_array_elements(p_outcome -> 'pending') AS p (value) WHERE p.value -> 'key' = 'null'));
    SELECT coalesce(pg_catalog.jsonb_agg(threadline.violation_of_run(p_request, v_found[n], v_ids[n].ids, v_known) ORDER BY n), '[]') INTO v_violations
    FROM pg_catalog.generate_subscripts(v_found, 1) AS n;
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

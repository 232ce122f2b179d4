-- replay_check() of a model: what is to be run is put together, run as the caller, and told.

-- What a run is about. invariants: those of the engine, in its order; queries: names of those that ask the tables as they were.
CREATE TYPE threadline.replay_request AS (
    model       text,
    since       timestamptz,
    until       timestamptz,
    horizon     bigint,
    stop        boolean,
    events      text,
    sources     threadline.replay_source[],
    invariants  text[],
    queries     text[],
    plan        jsonb,
    tests       jsonb,
    mixed_events text,     -- changes that stand for some of the log's
    overrides   jsonb      -- of projections, by name
);

CREATE FUNCTION threadline.engine_time(at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN engine_time.at = 'infinity' THEN 9223372036854775807 WHEN engine_time.at = '-infinity' THEN -9223372036854775807
            ELSE (extract(epoch FROM engine_time.at - '2000-01-01 00:00:00+00'::timestamptz) * 1000000)::bigint END;

CREATE FUNCTION threadline.from_engine_time(at bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN abs(from_engine_time.at) >= 9000000000000000000 THEN NULL
            ELSE '2000-01-01 00:00:00+00'::timestamptz + (from_engine_time.at / 1000000) * interval '1 second' + (from_engine_time.at % 1000000) * interval '1 microsecond' END;

-- Where a table's changes begin in a run: at its oldest baseline that was not purged.
CREATE FUNCTION threadline.table_source(p_n integer, p_table_id integer, p_horizon bigint) RETURNS threadline.replay_source
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_source threadline.replay_source;
    v_purged timestamptz;
BEGIN
    SELECT p_n, t.table_id, t.relation, NULL INTO v_source.n, v_source.table_id, v_source.relation, v_source.projection
    FROM threadline.readable_table t WHERE t.table_id = p_table_id;
    IF v_source.relation IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('table %s of the model is gone, or you may not read it', p_table_id),
            HINT = 'SELECT name, spec FROM threadline.replay_invariants; shows what names it.';
    END IF;
    SELECT max(g.until_at) INTO v_purged FROM threadline.readable_gap g WHERE g.table_id = p_table_id AND g.reason = 'purged';
    SELECT min(b.first_change_id), min(coalesce(b.committed_at, b.taken_at)), array_agg(b.first_change_id ORDER BY b.first_change_id)
    INTO v_source.changes_from, v_source.since, v_source.baselines
    FROM threadline.readable_baseline b
    WHERE b.table_id = p_table_id AND (p_horizon IS NULL OR b.commit_no IS NULL OR b.commit_no <= p_horizon)
      AND coalesce(b.committed_at, b.taken_at) >= coalesce(v_purged, '-infinity');
    v_source.emptied := ARRAY(SELECT b.first_change_id FROM threadline.readable_baseline b
                              WHERE b.table_id = p_table_id AND b.first_change_id = ANY (v_source.baselines[2:]) AND b.row_count = 0 ORDER BY 1);
    v_source.is_known := v_source.changes_from IS NOT NULL;
    v_source.changes_from := coalesce(v_source.changes_from, 0);
    -- A baseline knows from which number its changes are; its first one is the first row that it found.
    v_source.baselines := ARRAY(
        SELECT f.id FROM threadline.readable_baseline b
        CROSS JOIN LATERAL (SELECT c.id FROM threadline.readable_change c
                            WHERE c.table_id = p_table_id AND c.id >= b.first_change_id AND c.op = 3 AND c.transaction_id = b.transaction_id ORDER BY c.id LIMIT 1) f
        WHERE b.table_id = p_table_id AND b.first_change_id = ANY (v_source.baselines[2:]) ORDER BY f.id);
    v_source.has_deltas := NOT EXISTS (SELECT FROM threadline.replayable_table r WHERE r.table_id = p_table_id);
    v_source.inputs := '{}';
    RETURN v_source;
END
$$;

-- The commit by which all rows of these tables are known; NULL if they never are. Tables are put under capture one after another, and before
-- the last of them is known an invariant would tell of rows that are not known yet.
CREATE FUNCTION threadline.known_from(p_sources threadline.replay_source[], p_table_ids integer[]) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN bool_and(s.is_known) THEN max(coalesce(b.commit_no, 9223372036854775807)) END
    FROM unnest(p_sources) s
    LEFT JOIN threadline.readable_baseline b ON b.table_id = s.table_id AND b.first_change_id = s.changes_from
    WHERE s.projection IS NULL AND s.table_id = ANY (p_table_ids)
$$;

CREATE FUNCTION threadline.run_request(p_model text, p_since timestamptz, p_until timestamptz, p_stop boolean, p_invariants text[], p_projections text[], p_events text) RETURNS threadline.replay_request
LANGUAGE plpgsql STABLE SET jit = off
AS $$
DECLARE
    v_request threadline.replay_request;
    v_source threadline.replay_source;
    v_invariant record;
    v_projection record;
    v_table_id integer;
    v_compiled threadline.replay_compiled;
    v_input threadline.replay_input;
    v_plan_invariants jsonb := '[]';
    v_inputs jsonb;
    v_places integer[];
    v_known_from bigint;
    v_first integer;
    v_name text;
BEGIN
    PERFORM threadline.require_model(p_model);
    IF p_since >= p_until THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = pg_catalog.format('since, %s, is not before until, %s', p_since, p_until),
            HINT = 'Violations are reported that happened after since, up to until.';
    END IF;
    v_request.model := p_model;
    v_request.since := p_since;
    v_request.until := p_until;
    v_request.stop := p_stop;
    v_request.events := p_events;
    v_request.horizon := CASE WHEN p_until < 'infinity' AND p_events IS NULL THEN threadline.commit_horizon(p_until) END;
    v_request.sources := '{}';
    v_request.invariants := '{}';
    v_request.queries := '{}';
    v_request.tests := '{}';
    SELECT n.name INTO v_name FROM pg_catalog.unnest(p_invariants) AS n (name)
    WHERE NOT EXISTS (SELECT FROM threadline.replay_invariants i WHERE i.model = p_model AND i.name = n.name) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = pg_catalog.format('model "%s" has no invariant "%s"', p_model, v_name),
            HINT = pg_catalog.format('SELECT name FROM threadline.replay_invariants WHERE model = %L;', p_model);
    END IF;
    SELECT n.name INTO v_name FROM pg_catalog.unnest(p_projections) AS n (name)
    WHERE NOT EXISTS (SELECT FROM threadline.replay_projections p WHERE p.model = p_model AND p.name = n.name) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = pg_catalog.format('model "%s" has no projection "%s"', p_model, v_name),
            HINT = pg_catalog.format('SELECT name FROM threadline.replay_projections WHERE model = %L;', p_model);
    END IF;
    -- The tables first, then the projections.
    FOR v_table_id IN
        SELECT i.table_id FROM threadline.replay_invariants i
        WHERE i.model = p_model AND i.table_id IS NOT NULL AND (p_invariants IS NULL OR i.name = ANY (p_invariants))
        UNION
        SELECT m.table_id FROM threadline.replay_invariants i CROSS JOIN LATERAL pg_catalog.unnest(i.more_tables) AS m (table_id)
        WHERE i.model = p_model AND (p_invariants IS NULL OR i.name = ANY (p_invariants))
        UNION
        SELECT p.table_id FROM threadline.replay_projections p
        WHERE p.model = p_model AND p.table_id IS NOT NULL AND (p_projections IS NULL OR p.name = ANY (p_projections))
        UNION
        SELECT q.table_id FROM threadline.queried_tables(p_model, p_invariants) AS q (table_id) WHERE p_events IS NULL
        ORDER BY 1
    LOOP
        v_source := threadline.table_source(pg_catalog.cardinality(v_request.sources), v_table_id, v_request.horizon);
        IF p_events IS NOT NULL THEN
            -- Where events begin is not where the table does.
            v_source.is_known := false;
            v_source.has_deltas := false;
            v_source.changes_from := -9223372036854775807;
            v_source.baselines := '{}';
            v_source.emptied := '{}';
        END IF;
        v_request.sources := v_request.sources || v_source;
    END LOOP;
    FOR v_projection IN
        SELECT p.* FROM threadline.replay_projections p
        WHERE p.model = p_model AND (p_projections IS NULL OR p.name = ANY (p_projections)) AND (p_events IS NOT NULL OR p.table_id IS NOT NULL)
        ORDER BY p.no
    LOOP
        v_source := NULL;
        v_source.n := pg_catalog.cardinality(v_request.sources);
        v_source.table_id := v_projection.table_id;
        v_source.projection := v_projection.name;
        v_source.is_known := true;
        v_source.inputs := '{}';
        v_request.sources := v_request.sources || v_source;
    END LOOP;
    FOR v_invariant IN
        SELECT i.* FROM threadline.replay_invariants i
        WHERE i.model = p_model AND (p_invariants IS NULL OR i.name = ANY (p_invariants)) ORDER BY i.no
    LOOP
        IF v_invariant.kind = 'query' THEN
            IF p_events IS NULL THEN
                v_request.queries := v_request.queries || v_invariant.name;
            END IF;
            CONTINUE;
        END IF;
        v_places := CASE WHEN v_invariant.projection IS NOT NULL THEN
                ARRAY(SELECT s.n FROM pg_catalog.unnest(v_request.sources) s WHERE s.projection = v_invariant.projection)
            ELSE ARRAY(SELECT s.n FROM pg_catalog.unnest(v_invariant.table_id || v_invariant.more_tables) WITH ORDINALITY AS t (table_id, role)
                       JOIN pg_catalog.unnest(v_request.sources) s ON s.table_id = t.table_id AND s.projection IS NULL ORDER BY t.role) END;
        CONTINUE WHEN v_places = '{}';
        BEGIN
            v_compiled := threadline.compile_invariant(v_invariant.name, v_invariant.kind, v_invariant.spec, v_invariant.check_at, v_invariant.projection IS NOT NULL,
                ARRAY(SELECT CASE WHEN v_invariant.projection IS NOT NULL THEN threadline.state_nulls() ELSE threadline.typed_nulls(v_request.sources[p.n + 1].relation) END
                      FROM pg_catalog.unnest(v_places) WITH ORDINALITY AS p (n, role) ORDER BY p.role));
            FOREACH v_input IN ARRAY v_compiled.inputs LOOP
                PERFORM threadline.try_query(pg_catalog.format(E'SELECT (%s\n) FROM %s LIMIT 0', v_input.expression,
                                                               threadline.trial_rows(v_request.sources[v_places[v_input.role + 1] + 1].relation, v_input.scope)));
            END LOOP;
        EXCEPTION WHEN undefined_column OR undefined_function OR undefined_table OR undefined_object OR ambiguous_function OR datatype_mismatch OR cannot_coerce OR indeterminate_datatype THEN
            -- What it names was there when it was defined.
            RAISE EXCEPTION USING
                ERRCODE = SQLSTATE,
                MESSAGE = SQLERRM,
                DETAIL = pg_catalog.format('Invariant "%s" of model "%s" is defined as: %s', v_invariant.name, p_model, v_invariant.spec),
                HINT = pg_catalog.format('SELECT threadline.replay_add_invariant(%L, %L, %L, ''…'', %L, %L); defines it anew with the names of now.',
                                         p_model, v_invariant.name, v_invariant.kind, v_invariant.check_at, v_invariant.severity);
        END;
        v_inputs := '[]';
        FOR v_role IN 1 .. pg_catalog.cardinality(v_places) LOOP
            v_source := v_request.sources[v_places[v_role] + 1];
            v_first := pg_catalog.cardinality(v_source.inputs);
            v_source.inputs := v_source.inputs || ARRAY(SELECT c FROM pg_catalog.unnest(v_compiled.inputs) c WHERE c.role = v_role - 1);
            v_request.sources[v_places[v_role] + 1] := v_source;
            v_inputs := v_inputs || pg_catalog.jsonb_build_object('source', v_places[v_role], 'first', v_first, 'count', pg_catalog.cardinality(v_source.inputs) - v_first);
        END LOOP;
        IF v_compiled.kind #>> '{Aggregate,test}' = 'Elsewhere' THEN
            v_request.tests := v_request.tests || pg_catalog.jsonb_build_object(pg_catalog.cardinality(v_request.invariants)::text, v_invariant.spec ->> 'check');
        END IF;
        v_request.invariants := v_request.invariants || v_invariant.name;
        v_known_from := CASE WHEN p_events IS NULL AND v_invariant.more_tables <> '{}'
                             THEN threadline.known_from(v_request.sources, v_invariant.table_id || v_invariant.more_tables) ELSE -9223372036854775808 END;
        v_plan_invariants := v_plan_invariants || pg_catalog.jsonb_build_object('name', v_invariant.name, 'kind', v_compiled.kind, 'check_at', v_compiled.check_at, 'known_from', v_known_from,
            'is_warning', v_invariant.severity = 'warning', 'inputs', v_inputs);
    END LOOP;
    v_request.plan := pg_catalog.jsonb_build_object(
        'stop', p_stop, 'since', threadline.engine_time(p_since),
        'until', threadline.engine_time(CASE WHEN p_until < 'infinity' THEN p_until ELSE pg_catalog.clock_timestamp() END),
        'recent', 10,
        'invariants', v_plan_invariants,
        'sources', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                        'name', coalesce(s.projection, threadline.qualified_name(s.relation)), 'is_projection', s.projection IS NOT NULL, 'is_known', s.is_known,
                        -- A change is a step, whatever projections make of it; an event from elsewhere is one where it is mapped to something.
                        'is_counted', s.projection IS NULL OR s.table_id IS NULL,
                        'of', (SELECT o.n FROM pg_catalog.unnest(v_request.sources) o WHERE o.table_id = s.table_id AND o.projection IS NULL AND s.projection IS NOT NULL)) ORDER BY s.n), '[]')
                    FROM pg_catalog.unnest(v_request.sources) s));
    RETURN v_request;
END
$$;

-- Runs the stream, with the rights of the caller and writing nothing, and ends the run. p_state: of a run to go on from; p_conditions: which changes are new to it.
CREATE FUNCTION threadline.execute_stream(p_request threadline.replay_request, p_state threadline.saved_run, p_conditions text, p_save boolean, OUT outcome jsonb, OUT states jsonb, OUT saved threadline.saved_run)
LANGUAGE plpgsql
-- Texts are read in the settings they were written in.
SET jit = off SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
-- Changes are matched with their transactions by hash, and sorted once, narrow; statistics of a log that grows would say otherwise.
SET enable_mergejoin = off SET enable_nestloop = off
AS $$
DECLARE
    v_conditions constant text := coalesce(p_conditions, '') || CASE
        WHEN p_request.events IS NOT NULL AND p_request.until < 'infinity' THEN pg_catalog.format(' AND e.at <= %L', p_request.until)
        WHEN p_request.horizon IS NOT NULL THEN pg_catalog.format(' AND CASE WHEN x.id IS NULL THEN c.id ELSE x.commit_no END <= %s', p_request.horizon) ELSE '' END;
    v_has_projections constant boolean := EXISTS (SELECT FROM pg_catalog.unnest(p_request.sources) s WHERE s.projection IS NOT NULL);
    v_guarded boolean := false;
    v_run integer;
    v_work_mem constant text := pg_catalog.current_setting('work_mem');
BEGIN
    IF pg_catalog.cardinality(p_request.sources) = 0 THEN
        outcome := '{"events": 0, "transactions": 0, "total": 0, "counts": [], "stopped": false, "violations": [], "pending": [], "unknown": [], "skipped": {}, "rows": [], "fed": []}';
        states := '{}';
        RETURN;
    END IF;
    LOOP
        BEGIN
            v_run := threadline.run_begin(p_request.plan, p_state);
            PERFORM pg_catalog.set_config('transaction_read_only', 'on', true);
            -- Who gives a query less would wait for many small runs of a sort.
            IF pg_catalog.pg_size_bytes(v_work_mem) < pg_catalog.pg_size_bytes('64MB') THEN
                PERFORM pg_catalog.set_config('work_mem', '64MB', true);
            END IF;
            EXECUTE threadline.stream_statement(p_request.model, p_request.sources, v_conditions, p_request.events, v_run, v_guarded, p_request.tests,
                                                  p_request.mixed_events, coalesce(p_request.overrides, '{}'));
            PERFORM pg_catalog.set_config('work_mem', v_work_mem, true);
            EXIT;
        EXCEPTION WHEN OTHERS THEN
            -- A function of a projection may have failed: then each call is looked after.
            IF v_guarded OR NOT v_has_projections OR SQLSTATE IN ('57014', '53200', '22003') THEN
                RAISE;
            END IF;
            v_guarded := true;
        END;
    END LOOP;
    SELECT coalesce(pg_catalog.jsonb_object_agg(s.projection, k.states), '{}') INTO states
    FROM pg_catalog.unnest(p_request.sources) s
    CROSS JOIN LATERAL (
        SELECT CASE WHEN p.key IS NULL THEN pg_catalog.min(t.state::text)::jsonb ELSE coalesce(pg_catalog.jsonb_object_agg(t.key, t.state) FILTER (WHERE t.key IS NOT NULL), '{}') END AS states
        FROM threadline.replay_projections p
        LEFT JOIN threadline.run_states(v_run, s.n, 1000) t ON true
        WHERE p.model = p_request.model AND p.name = s.projection
        GROUP BY p.key) k
    WHERE s.projection IS NOT NULL;
    IF p_save THEN
        saved := threadline.run_save(v_run);
    END IF;
    outcome := threadline.run_end(v_run, 1000);
END
$$;

-- The columns that a table's invariants read and redaction hides, at some time of the run.
CREATE FUNCTION threadline.redacted_inputs(p_source threadline.replay_source) RETURNS SETOF text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_column record;
    v_input threadline.replay_input;
    v_others text;
    -- A row that is meant as a whole is read with all its columns. Texts, quoted names and comments say nothing of that.
    v_whole constant boolean := EXISTS (
        SELECT FROM pg_catalog.unnest(p_source.inputs) i
        WHERE pg_catalog.regexp_replace(i.expression, '''[^'']*''|"[^"]*"|--[^\n]*|\.\s*(new|old)\M', '_', 'gi') ~* '\m(new|old)\M\s*(?!\s*\.)(?=[^\s.]|$)|\m(new|old)\s*\.\s*\*');
BEGIN
    FOR v_column IN
        SELECT DISTINCT f.name_now AS name
        FROM threadline.column_fate(p_source.table_id, p_source.relation) f
        CROSS JOIN threadline.readable_table t
        WHERE t.table_id = p_source.table_id AND f.name_now IS NOT NULL
          AND (f.redact IS NOT NULL OR f.name_now = ANY (t.exclude::text[] || t.mask))
          AND (v_whole OR EXISTS (SELECT FROM pg_catalog.unnest(p_source.inputs) i WHERE pg_catalog.strpos(pg_catalog.lower(i.expression), pg_catalog.lower(f.name_now)) > 0))
    LOOP
        IF v_whole THEN
            RETURN NEXT v_column.name;
            CONTINUE;
        END IF;
        SELECT coalesce(pg_catalog.string_agg(pg_catalog.format('NULL::%s AS %I', pg_catalog.format_type(a.atttypid, a.atttypmod), a.attname), ', ' ORDER BY a.attnum), '') INTO v_others
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = p_source.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> v_column.name;
        FOREACH v_input IN ARRAY p_source.inputs LOOP
            BEGIN
                PERFORM threadline.try_query(pg_catalog.format(CASE v_input.scope WHEN 'pair' THEN E'SELECT %1$s\n FROM (SELECT %2$s) AS new, (SELECT %2$s) AS old LIMIT 0' ELSE E'SELECT %1$s\n FROM (SELECT %2$s) AS new LIMIT 0' END,
                                                               v_input.expression, v_others));
            EXCEPTION WHEN undefined_column THEN
                -- Without the column the expression does not read: it is one that it needs.
                RETURN NEXT v_column.name;
                EXIT;
            END;
        END LOOP;
    END LOOP;
END
$$;

-- Columns of which something is or was redacted.
CREATE FUNCTION threadline.hidden_columns(p_table_id integer) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT h.name), '{}')
    FROM (SELECT split_part(n.name, '.', 1) AS name FROM threadline.readable_table t CROSS JOIN LATERAL unnest(t.exclude::text[] || t.mask) AS n (name) WHERE t.table_id = p_table_id
          UNION ALL
          SELECT c.name FROM threadline.readable_version v CROSS JOIN LATERAL jsonb_to_recordset(v.columns) AS c (name text, redact text) WHERE v.table_id = p_table_id AND c.redact IS NOT NULL) h
$$;

-- Why a run is no ground for saying that all invariants hold: {"table", "reason", "detail"} or {"invariant", …}.
CREATE FUNCTION threadline.run_doubts(p_request threadline.replay_request, p_outcome jsonb) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(pg_catalog.jsonb_agg(d.doubt), '[]')
    FROM (
        SELECT pg_catalog.jsonb_build_object('table', threadline.qualified_name(s.relation), 'reason', g.reason, 'since_at', g.since_at, 'until_at', g.until_at) AS doubt
        FROM pg_catalog.unnest((p_request).sources) s
        CROSS JOIN LATERAL threadline.gaps_between(s.table_id, greatest(coalesce(s.since, '-infinity'), '-infinity'), (p_request).until) g
        WHERE s.projection IS NULL AND (p_request).events IS NULL
        UNION ALL
        SELECT pg_catalog.jsonb_build_object('source', coalesce(s.projection, threadline.qualified_name(s.relation)), 'reason', 'no_events')
        FROM pg_catalog.unnest((p_request).sources) s
        WHERE (p_request).events IS NOT NULL AND coalesce((p_outcome #>> ARRAY['fed', s.n::text])::bigint, 0) = 0
          AND NOT p_outcome -> 'violations' @> '[{}]'
        UNION ALL
        SELECT pg_catalog.jsonb_build_object('table', threadline.qualified_name(s.relation), 'reason', 'before_horizon', 'since_at', NULL, 'until_at', s.since)
        FROM pg_catalog.unnest((p_request).sources) s
        WHERE s.projection IS NULL AND (p_request).events IS NULL AND (NOT s.is_known OR (p_request).since > '-infinity' AND (p_request).since < s.since)
        UNION ALL
        SELECT pg_catalog.jsonb_build_object('table', threadline.qualified_name(s.relation), 'reason', 'redacted', 'column', r.name)
        FROM pg_catalog.unnest((p_request).sources) s
        CROSS JOIN LATERAL threadline.redacted_inputs(s) AS r (name)
        WHERE s.projection IS NULL
        UNION ALL
        -- A projection takes what it names, in its expressions or in the functions that they call.
        SELECT pg_catalog.jsonb_build_object('projection', s.projection, 'reason', 'redacted', 'column', h.name)
        FROM pg_catalog.unnest((p_request).sources) s
        JOIN threadline.replay_projections p ON p.model = (p_request).model AND p.name = s.projection
        CROSS JOIN LATERAL pg_catalog.unnest(threadline.hidden_columns(s.table_id)) AS h (name)
        WHERE s.table_id IS NOT NULL
          AND pg_catalog.strpos(pg_catalog.concat_ws(' ', p.key, p.step, p.mapping,
                  (SELECT f.prosrc FROM pg_catalog.pg_proc f WHERE f.oid = pg_catalog.to_regprocedure(p.mapping || '(jsonb)')),
                  (SELECT f.prosrc FROM pg_catalog.pg_proc f WHERE f.oid = CASE WHEN p.step ~ '^[\w."$]+$' THEN pg_catalog.to_regprocedure(p.step || '(jsonb, jsonb)') END)), h.name) > 0
        UNION ALL
        SELECT pg_catalog.jsonb_build_object('invariant', (p_request).invariants[(u.value ->> 'invariant')::integer + 1], 'reason', 'before_horizon', 'times', u.value -> 'times')
        FROM pg_catalog.jsonb_array_elements(p_outcome -> 'unknown') AS u (value)
        UNION ALL
        SELECT pg_catalog.jsonb_build_object('reason', 'not_settled', 'until_at', (p_request).until)
        WHERE (p_request).events IS NULL AND (p_request).until < 'infinity' AND NOT threadline.settled((p_request).until)
    ) d
$$;

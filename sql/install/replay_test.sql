-- A violation as a pgTAP test, which needs an empty database with the two extensions, and whether one that was found is fixed.

-- A type that exists in every database, for a column of a test's table.
CREATE FUNCTION threadline.test_type(p_type oid, p_modifier integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE base AS (
        SELECT y.oid, y.typtype, y.typbasetype, y.typtypmod, y.typnamespace, p_modifier AS modifier FROM pg_type y WHERE y.oid = p_type
        UNION ALL
        SELECT y.oid, y.typtype, y.typbasetype, y.typtypmod, y.typnamespace, b.typtypmod FROM base b JOIN pg_type y ON y.oid = b.typbasetype WHERE b.typtype = 'd'
    )
    SELECT CASE WHEN b.typnamespace = 'pg_catalog'::regnamespace THEN format_type(b.oid, b.modifier) ELSE 'text' END FROM base b WHERE b.typtype <> 'd'
$$;

-- The tables of a request, as they have to be for the test: their columns but those that redaction hides, and their keys.
CREATE FUNCTION threadline.test_tables(p_request threadline.replay_request) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(E'\n',
        CASE WHEN t.table_schema NOT IN ('public', 'pg_catalog') THEN format('CREATE SCHEMA IF NOT EXISTS %I;', t.table_schema) END,
        format('CREATE TABLE %I.%I (%s, PRIMARY KEY (%s));', t.table_schema, t.table_name,
               (SELECT string_agg(format('%I %s', a.attname, threadline.test_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
                FROM pg_attribute a WHERE a.attrelid = s.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (threadline.hidden_columns(t.table_id))),
               (SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.n) FROM unnest(t.key_columns) WITH ORDINALITY AS k (name, n))),
        format('SELECT threadline.audit_enable(%L) \g /dev/null', format('%I.%I', t.table_schema, t.table_name)))
    FROM unnest((p_request).sources) s
    JOIN threadline.readable_table t ON t.table_id = s.table_id
    WHERE s.projection IS NULL
    ORDER BY s.n
$$;

CREATE FUNCTION threadline.source_name(p_request threadline.replay_request, p_table_id integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT threadline.qualified_name(s.relation) FROM unnest((p_request).sources) s WHERE s.table_id = p_table_id AND s.projection IS NULL);

-- The functions, projections and invariant of a violation, as statements.
CREATE FUNCTION threadline.test_model(p_request threadline.replay_request, p_invariant text) RETURNS SETOF text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_projection record;
    v_invariant record;
    v_function regprocedure;
BEGIN
    RETURN NEXT pg_catalog.format('SELECT threadline.replay_define_model(%L) \g /dev/null', p_request.model);
    FOR v_projection IN
        SELECT p.* FROM threadline.replay_projections p
        JOIN pg_catalog.unnest(p_request.sources) s ON s.projection = p.name WHERE p.model = p_request.model ORDER BY p.no
    LOOP
        FOR v_function IN
            SELECT f.oid FROM (VALUES (pg_catalog.to_regprocedure(v_projection.mapping || '(jsonb)')),
                                      (CASE WHEN v_projection.step ~ '^[\w."$]+$' THEN pg_catalog.to_regprocedure(v_projection.step || '(jsonb, jsonb)') END)) AS f (oid)
            JOIN pg_catalog.pg_proc p ON p.oid = f.oid
            WHERE p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
        LOOP
            RETURN NEXT pg_catalog.format('CREATE SCHEMA IF NOT EXISTS %I;', (SELECT n.nspname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = v_function));
            RETURN NEXT pg_catalog.pg_get_functiondef(v_function) || ';';
        END LOOP;
        RETURN NEXT pg_catalog.format(E'SELECT threadline.replay_add_projection(%L, %L, %s, %L, %L, %L, %L) \\g /dev/null', p_request.model, v_projection.name,
            coalesce(pg_catalog.quote_literal(threadline.qualified_name(v_projection.source)), 'NULL'), v_projection.key, v_projection.init, v_projection.step, v_projection.mapping);
    END LOOP;
    SELECT i.* INTO v_invariant FROM threadline.replay_invariants i WHERE i.model = p_request.model AND i.name = p_invariant;
    IF FOUND THEN
        RETURN NEXT pg_catalog.format(E'SELECT threadline.replay_add_invariant(%L, %L, %L, %L, %L, %L) \\g /dev/null', p_request.model, v_invariant.name, v_invariant.kind,
            v_invariant.spec || CASE WHEN v_invariant.table_id IS NOT NULL THEN pg_catalog.jsonb_build_object('table', threadline.source_name(p_request, v_invariant.table_id)) ELSE '{}' END
            || CASE v_invariant.kind
                   WHEN 'references' THEN pg_catalog.jsonb_build_object('to', threadline.source_name(p_request, v_invariant.more_tables[1]))
                   WHEN 'balance' THEN CASE WHEN v_invariant.more_tables = '{}' THEN '{}' ELSE pg_catalog.jsonb_build_object('and', (
                       SELECT pg_catalog.jsonb_agg(a.value || pg_catalog.jsonb_build_object('table', threadline.source_name(p_request, v_invariant.more_tables[a.n])) ORDER BY a.n)
                       FROM pg_catalog.jsonb_array_elements(v_invariant.spec -> 'and') WITH ORDINALITY AS a (value, n))) END
                   ELSE '{}' END,
            v_invariant.check_at, v_invariant.severity);
    END IF;
END
$$;

-- The events as rows of a VALUES list, those of a transaction together, without what redaction hides.
CREATE FUNCTION threadline.test_events(p_documents jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(
        CASE WHEN NOT e.is_first THEN ''
             WHEN e.is_pin THEN E'    -- What was there before.\n'
             ELSE format(E'    -- transaction %s\n', coalesce(e.event ->> 'transaction_id', e.event ->> 'transaction')) END
        || '    ' || CASE WHEN e.is_pin THEN coalesce('/* left by transaction ' || (e.event ->> 'transaction_id') || ' */ ', '') ELSE '' END
        || format('(%s, %L, %L)', e.seq, e.at,
                  e.event - '{transaction_id,change_id,old_exact,new_exact}'::text[]
                  || CASE WHEN e.event ? 'old' AND e.event ->> 'table' IS NOT NULL THEN jsonb_build_object('old', (e.event -> 'old') - e.hidden) ELSE '{}' END
                  || CASE WHEN e.event ? 'new' AND e.event ->> 'table' IS NOT NULL THEN jsonb_build_object('new', (e.event -> 'new') - e.hidden) ELSE '{}' END
                  || CASE WHEN e.event ? 'old_exact' AND (e.event -> 'old_exact') - e.hidden <> '{}' THEN jsonb_build_object('old_exact', (e.event -> 'old_exact') - e.hidden) ELSE '{}' END
                  || CASE WHEN e.event ? 'new_exact' AND (e.event -> 'new_exact') - e.hidden <> '{}' THEN jsonb_build_object('new_exact', (e.event -> 'new_exact') - e.hidden) ELSE '{}' END),
        E',\n' ORDER BY e.seq)
    FROM (
        SELECT (d.value ->> 'seq')::bigint AS seq, d.value ->> 'at' AS at, d.value -> 'event' AS event, coalesce(h.names, '{}') AS hidden,
               d.value #>> '{event,op}' IN ('snapshot', 'pin') AND d.value #>> '{event,table}' IS NOT NULL AS is_pin,
               lag(d.value #>> '{event,transaction}') OVER (ORDER BY (d.value ->> 'seq')::bigint) IS DISTINCT FROM d.value #>> '{event,transaction}' AS is_first
        FROM jsonb_array_elements(p_documents) AS d (value)
        LEFT JOIN LATERAL (SELECT threadline.hidden_columns(t.table_id) AS names FROM threadline.readable_table t
                           WHERE t.table_schema || '.' || t.table_name = d.value #>> '{event,table}' LIMIT 1) h ON true
    ) e
$$;

CREATE FUNCTION threadline.replay_regression_test(result jsonb, mode text = 'fixed', violation integer = 1) RETURNS text
LANGUAGE plpgsql SET jit = off
AS $$
DECLARE
    v_violation constant jsonb := threadline.violation_of(replay_regression_test.result, replay_regression_test.violation);
    v_model constant text := replay_regression_test.result #>> '{request,model}';
    v_invariant constant text := v_violation ->> 'invariant';
    v_events constant text := replay_regression_test.result #>> '{request,events}';
    v_reproduces constant boolean := replay_regression_test.mode = 'reproduces';
    v_documents jsonb;
    v_request threadline.replay_request;
    v_is_error constant boolean := v_violation ->> 'kind' = 'error';
    v_check text;
    v_seq text;
BEGIN
    IF replay_regression_test.mode IS NULL OR replay_regression_test.mode NOT IN ('reproduces', 'fixed') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = pg_catalog.format('replay_regression_test has no mode "%s"', replay_regression_test.mode),
            HINT = 'Use mode => ''fixed'' (fails while the bug exists) or ''reproduces'' (passes while it exists).';
    END IF;
    IF v_violation ->> 'kind' IN ('query', 'integrity') THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = pg_catalog.format('a violation of %s cannot be made into a test', v_violation ->> 'invariant'),
            DETAIL = CASE v_violation ->> 'kind' WHEN 'query' THEN 'A query may depend on every row of its tables.' ELSE 'It is about the record itself.' END,
            HINT = 'SELECT threadline.replay_report(…); tells of it.';
    END IF;
    v_documents := threadline.shortest_events(replay_regression_test.result, v_violation,
        threadline.events_of_changes(v_events, threadline.violation_slice(replay_regression_test.result, v_violation, 1000)));
    SELECT d.value ->> 'seq' INTO v_seq FROM pg_catalog.jsonb_array_elements(v_documents) AS d (value)
    WHERE d.value #>> '{event,change_id}' = v_violation ->> 'change_id' OR v_events IS NOT NULL AND d.value ->> 'seq' = v_violation ->> 'change_id';
    v_request := threadline.violation_request(v_model, v_violation, v_events);
    v_check := pg_catalog.format($check$threadline.replay_check(%L, stop_on_first_failure => false, invariants => %L,%s events => 'SELECT seq, at, event FROM recorded')$check$,
        v_model, CASE WHEN v_is_error THEN '{}'::text[] ELSE ARRAY[v_invariant] END,
        CASE WHEN v_violation ->> 'kind' = 'deadline' THEN pg_catalog.format(' until => %L,', coalesce(nullif((replay_regression_test.result #>> '{request,until}')::timestamptz, 'infinity'), pg_catalog.now())) ELSE '' END);
    RETURN pg_catalog.concat_ws(E'\n',
        pg_catalog.format('-- %s test of invariant %s of model %s: %s', CASE WHEN v_reproduces THEN 'Reproduces a failure:' ELSE 'Regression' END, v_invariant, v_model, v_violation ->> 'failure_reason'),
        pg_catalog.format('-- Key %s, %s; fingerprint %s.', v_violation -> 'key', coalesce('broken by transaction ' || (v_violation #>> '{transaction,id}') || ', committed at ' || (v_violation #>> '{transaction,committed_at}'), 'event ' || (v_violation ->> 'change_id')), v_violation ->> 'fingerprint'),
        CASE WHEN v_reproduces THEN '-- Passes while the events below break the invariant.'
             ELSE '-- Fails while the events below break the invariant: put what should have happened in their place.' END,
        '-- psql -X -q -A -t -f this in a database with threadline_forensics and pgtap to be had. Nothing is left behind. Where the events themselves are in the record,',
        '-- it asks the record instead: whether the invariant is still broken there.',
        '\set ON_ERROR_STOP on',
        'BEGIN;',
        'SET LOCAL client_min_messages = warning;',
        'CREATE EXTENSION IF NOT EXISTS pgtap;',
        'CREATE EXTENSION IF NOT EXISTS threadline_forensics;',
        pg_catalog.format('SELECT EXISTS (SELECT FROM threadline.audit_changes WHERE id = %s AND transaction_id = %L) AND EXISTS (SELECT FROM threadline.replay_models WHERE model = %L) AS is_recorded_here \gset',
                          v_violation ->> 'change_id', v_violation #>> '{transaction,id}', v_model),
        '\if :is_recorded_here',
        'SELECT plan(1);',
        pg_catalog.format(E'SELECT %s(EXISTS(SELECT FROM jsonb_array_elements(threadline.replay_check(%L, stop_on_first_failure => false, invariants => %L) -> ''violations'') AS v (value)\n              WHERE v.value ->> ''invariant'' = %L AND v.value -> ''key'' = %L%s), %L);',
            CASE WHEN v_reproduces THEN 'ok' ELSE 'ok(NOT ' END, v_model, ARRAY[v_invariant], v_invariant, v_violation -> 'key',
            CASE WHEN v_reproduces THEN '' ELSE ' AND v.value -> ''first_repaired_at'' = ''null'')' END,
            CASE WHEN v_reproduces THEN v_invariant || ' was broken' ELSE v_invariant || ' holds again' END),
        '\else',
        (SELECT pg_catalog.string_agg(t.text, E'\n') FROM threadline.test_tables(v_request) AS t (text)),
        (SELECT pg_catalog.string_agg(m.text, E'\n') FROM threadline.test_model(v_request, v_invariant) AS m (text)),
        'CREATE TEMPORARY TABLE recorded (seq bigint, at timestamptz, event jsonb);',
        'INSERT INTO recorded VALUES',
        threadline.test_events(v_documents) || ';',
        -- Whoever corrects the events may need rows that they do not show, and a pinned state counts them in.
        CASE WHEN NOT v_reproduces AND v_documents @? '$[*] ? (@.event.op == "pin")' THEN pg_catalog.concat_ws(E'\n',
            '-- A row that an event above found was among what was there before.',
            'INSERT INTO recorded',
            'SELECT (SELECT min(seq) FROM recorded) - row_number() OVER (), f.at, f.event - ''{old,old_key,old_exact,new_exact}''::text[]',
            '       || jsonb_build_object(''op'', ''snapshot'', ''transaction'', 0, ''statement'', 0, ''key'', f.key, ''new'', f.event -> ''old'', ''new_exact'', coalesce(f.event -> ''old_exact'', ''{}''))',
            'FROM (SELECT DISTINCT ON (event ->> ''table'', key) at, event, key',
            '      FROM recorded, coalesce(event ->> ''old_key'', event ->> ''key'') AS key ORDER BY event ->> ''table'', key, seq) f',
            'WHERE f.event ->> ''op'' IN (''update'', ''delete'') AND f.event ? ''old'';') END,
        CASE WHEN v_reproduces THEN pg_catalog.concat_ws(E'\n',
            'SELECT plan(3);',
            pg_catalog.format('SELECT is(%s ->> ''verdict'', ''violated'', %L);', v_check, v_invariant || ' is broken'),
            pg_catalog.format('SELECT is((%s #>> ''{violations,-1,change_id}''), %L, %L);', v_check, v_seq, 'by the event that broke it'),
            pg_catalog.format('SELECT is((%s #> ''{violations,-1,state_after}''), %L::jsonb, %L);', v_check,
                (SELECT CASE WHEN pg_catalog.jsonb_typeof(v_violation -> 'state_after') = 'object' THEN (v_violation -> 'state_after') - coalesce(
                            (SELECT threadline.hidden_columns(t.table_id) FROM threadline.readable_table t WHERE t.table_schema = v_violation ->> 'table_schema' AND t.table_name = v_violation ->> 'table_name' LIMIT 1), '{}')
                        ELSE v_violation -> 'state_after' END), 'with the state that it was left in'))
        ELSE pg_catalog.concat_ws(E'\n',
            'SELECT plan(1);',
            pg_catalog.format('SELECT is(%s ->> ''verdict'', ''holds'', %L);', v_check, v_invariant || ' holds')) END,
        '\endif',
        'SELECT * FROM finish();',
        'ROLLBACK;',
        '');
END
$$;
COMMENT ON FUNCTION threadline.replay_regression_test(jsonb, text, integer) IS
$$A violation as a pgTAP test, a file for psql. result: what replay_check('model') returned; violation: its number there. mode: fixed, the test fails while the events in it break the invariant; reproduces, it passes while they do, at the same event and with the same state. It makes the tables, the model and the fewest events that show the failure (replay_minimal_set) in an empty database with both extensions to be had, and rolls everything back; columns that are or were redacted are left out. Events may be added when it is corrected: a row that they change counts as one that was there. Run where the events are in the record, it asks the record: fixed passes once the invariant holds again for the key, after audit_revert for one. Types that are not the server's own are text there. Errors: 22023 unknown mode, no result of a model or no such violation, 0A000 a violation of a query or of the record itself.$$;

CREATE FUNCTION threadline.replay_verify_fix(result jsonb) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    v_known constant jsonb := replay_verify_fix.result -> 'violations';
    v_names text[];
    v_again jsonb;
    v_verdict text;
BEGIN
    PERFORM threadline.violation_of(replay_verify_fix.result, 1);
    SELECT CASE WHEN pg_catalog.bool_or(v.value ->> 'kind' IN ('integrity', 'error')) THEN NULL ELSE pg_catalog.array_agg(DISTINCT v.value ->> 'invariant') END INTO v_names
    FROM pg_catalog.jsonb_array_elements(v_known) AS v (value);
    v_again := threadline.replay_check(replay_verify_fix.result #>> '{request,model}', '-infinity', 'infinity', false, v_names, NULL, replay_verify_fix.result #>> '{request,events}') -> 'violations';
    WITH known AS (
        SELECT v.value -> 'invariant' AS invariant, v.value -> 'key' AS key, v.value -> 'change_id' AS change_id, v.value -> 'fingerprint' AS fingerprint FROM pg_catalog.jsonb_array_elements(v_known) AS v (value)
    ), again AS (
        SELECT v.value -> 'invariant' AS invariant, v.value -> 'key' AS key, v.value -> 'change_id' AS change_id, v.value -> 'fingerprint' AS fingerprint, v.value -> 'first_repaired_at' = 'null' AS is_open,
               NOT EXISTS (SELECT FROM known k WHERE (k.invariant, k.key, k.change_id) = (v.value -> 'invariant', v.value -> 'key', v.value -> 'change_id')) AS is_new
        FROM pg_catalog.jsonb_array_elements(v_again) AS v (value)
    ), judged AS (
        SELECT EXISTS (SELECT FROM again a WHERE a.is_open AND (a.invariant = k.invariant AND a.key = k.key OR a.is_new AND a.fingerprint = k.fingerprint)) AS fails,
               EXISTS (SELECT FROM again a WHERE a.is_new AND a.change_id::text::bigint > k.change_id::text::bigint AND (a.invariant = k.invariant AND a.key = k.key OR a.fingerprint = k.fingerprint)) AS came_back
        FROM known k
    )
    SELECT CASE WHEN pg_catalog.bool_and(j.fails) THEN 'still_failing' WHEN pg_catalog.bool_or(j.fails) THEN 'partially_fixed' WHEN pg_catalog.bool_or(j.came_back) THEN 'flaky' ELSE 'verified' END
    INTO v_verdict
    FROM judged j;
    RETURN v_verdict;
END
$$;
COMMENT ON FUNCTION threadline.replay_verify_fix(jsonb) IS
'Whether the violations of a result that replay_check(''model'') returned some time ago are there no more, by a new replay of the whole history (or of the same events): verified; still_failing (each is violated still, or the same failure, by fingerprint, stands at another key); partially_fixed (some); flaky (none is violated now, but one came back since and was repaired again). An event that should not have happened stays: of the kinds that judge events a key is fine again with the next one that is. Errors: 22023 no result of a model, or one without violations.';

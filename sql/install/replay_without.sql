-- What a model would say of another history, or another model of this one.

-- Rows that some transactions touched, as the log knows them: under whatever keys they had later, too.
CREATE FUNCTION threadline.rows_touched(p_transactions uuid[], p_tables integer[]) RETURNS TABLE (table_id integer, keys text[])
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_column
DECLARE
    v_table_id integer;
    v_known integer;
BEGIN
    FOREACH v_table_id IN ARRAY p_tables LOOP
        SELECT pg_catalog.array_agg(DISTINCT k.key) INTO keys
        FROM threadline.readable_change c CROSS JOIN LATERAL (VALUES (c.key), (c.old_key)) AS k (key)
        WHERE c.transaction_id = ANY (p_transactions) AND c.table_id = v_table_id AND k.key IS NOT NULL AND c.op <> 2;
        CONTINUE WHEN keys IS NULL;
        LOOP
            v_known := pg_catalog.cardinality(keys);
            SELECT pg_catalog.array_agg(DISTINCT k.key) INTO keys
            FROM threadline.readable_change c CROSS JOIN LATERAL (VALUES (c.key), (c.old_key)) AS k (key)
            WHERE c.table_id = v_table_id AND c.op = 5 AND c.old_key = ANY (keys) AND k.key IS NOT NULL OR k.key = ANY (keys);
            EXIT WHEN pg_catalog.cardinality(keys) = v_known;
        END LOOP;
        table_id := v_table_id;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Two results of one model beside each other.
CREATE FUNCTION threadline.results_compared(p_before jsonb, p_after jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH before AS (
        SELECT v.value AS violation, v.value -> 'invariant' AS invariant, v.value -> 'key' AS key, v.value -> 'change_id' AS change_id FROM jsonb_array_elements(p_before -> 'violations') AS v (value)
    ), after AS (
        SELECT v.value AS violation, v.value -> 'invariant' AS invariant, v.value -> 'key' AS key, v.value -> 'change_id' AS change_id FROM jsonb_array_elements(p_after -> 'violations') AS v (value)
    )
    SELECT jsonb_build_object(
        'verdict_before', p_before -> 'verdict', 'verdict_after', p_after -> 'verdict',
        'no_longer', (SELECT coalesce(jsonb_agg(b.violation), '[]') FROM before b WHERE NOT EXISTS (SELECT FROM after a WHERE (a.invariant, a.key, a.change_id) = (b.invariant, b.key, b.change_id))),
        'new', (SELECT coalesce(jsonb_agg(a.violation), '[]') FROM after a WHERE NOT EXISTS (SELECT FROM before b WHERE (a.invariant, a.key, a.change_id) = (b.invariant, b.key, b.change_id))),
        'still', (SELECT count(*) FROM before b JOIN after a ON (a.invariant, a.key, a.change_id) = (b.invariant, b.key, b.change_id)),
        'before', p_before - '{violations,request}'::text[], 'after', p_after - '{request}'::text[])
$$;

CREATE FUNCTION threadline.replay_without(model text, transactions uuid[], since timestamptz = '-infinity', until timestamptz = 'infinity', invariants text[] = NULL) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_request threadline.replay_request;
    v_before jsonb;
    v_touched record;
    v_conditions text := '';
    v_documents jsonb;
    v_numbers bigint[];
    v_ids bigint[] := '{}';
    v_run record;
    v_missing uuid;
BEGIN
    SELECT t.id INTO v_missing FROM pg_catalog.unnest(replay_without.transactions) AS t (id)
    WHERE NOT EXISTS (SELECT FROM threadline.readable_transaction x WHERE x.id = t.id) LIMIT 1;
    IF FOUND OR replay_without.transactions IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = '02000',
            MESSAGE = pg_catalog.format('transaction %s is not in the record', coalesce(v_missing::text, 'NULL')),
            HINT = 'SELECT id, committed_at, actor_ref, change_count FROM threadline.audit_transactions ORDER BY committed_at DESC LIMIT 20;';
    END IF;
    v_request := threadline.run_request(replay_without.model, replay_without.since, replay_without.until, false, replay_without.invariants, NULL, NULL);
    v_request.queries := '{}';
    v_before := threadline.check_model(v_request);
    FOR v_touched IN
        SELECT r.* FROM threadline.rows_touched(replay_without.transactions, ARRAY(SELECT s.table_id FROM pg_catalog.unnest(v_request.sources) s WHERE s.projection IS NULL)) r
    LOOP
        v_conditions := v_conditions || pg_catalog.format(' AND NOT (c.table_id = %s AND c.key = ANY (%L::text[]))', v_touched.table_id, v_touched.keys);
        v_ids := v_ids || ARRAY(
            SELECT c.id FROM threadline.readable_change c
            JOIN pg_catalog.unnest(v_request.sources) s ON s.table_id = c.table_id AND s.projection IS NULL
            WHERE c.table_id = v_touched.table_id AND c.key = ANY (v_touched.keys) AND c.op <> 2 AND c.id >= s.changes_from);
    END LOOP;
    -- In the numbers of the log, among whose changes they are to stand.
    SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_set(pg_catalog.jsonb_set(d.value, '{seq}', d.value #> '{event,change_id}'), '{event,transaction}',
                    (SELECT pg_catalog.to_jsonb(coalesce(x.commit_no, 9223372036854775807)) FROM threadline.readable_transaction x WHERE x.id = (d.value #>> '{event,transaction_id}')::uuid)) ORDER BY d.n), '[]')
    INTO v_documents
    FROM pg_catalog.jsonb_array_elements(threadline.events_of_changes(NULL, v_ids)) WITH ORDINALITY AS d (value, n)
    WHERE v_request.horizon IS NULL OR EXISTS (SELECT FROM threadline.readable_transaction x WHERE x.id = (d.value #>> '{event,transaction_id}')::uuid AND x.commit_no <= v_request.horizon);
    SELECT pg_catalog.array_agg(coalesce(x.commit_no, 9223372036854775807)) INTO v_numbers FROM threadline.readable_transaction x WHERE x.id = ANY (replay_without.transactions);
    v_request.mixed_events := threadline.events_query(threadline.events_without(v_documents, v_numbers));
    v_run := threadline.execute_stream(v_request, NULL, v_conditions, false);
    RETURN threadline.results_compared(v_before, threadline.result_of_run(v_request, v_run.outcome, v_run.states));
END
$$;
COMMENT ON FUNCTION threadline.replay_without(text, uuid[], timestamptz, timestamptz, text[]) IS
$$What a model would say had some transactions not been: verdict_before, verdict_after, no_longer and new (violations that would not be, and that would be instead), still (how many would be all the same), before and after (results of replay_check). Rows that the transactions touched go on without what those did: a number that they changed by some amount stays that much less or more through every later change, any other value is as before until it is set anew, rows that they made are not there and rows that they deleted are. What their absence would have made others do otherwise is not known. Invariants of kind query are left out. Errors: 02000 a transaction that is not in the record; the others as replay_check.$$;

CREATE FUNCTION threadline.replay_with(model text, projection text, step text = NULL, mapping text = NULL, init jsonb = NULL, since timestamptz = '-infinity', until timestamptz = 'infinity', events text = NULL) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_request threadline.replay_request;
    v_before jsonb;
    v_run record;
BEGIN
    v_request := threadline.run_request(replay_with.model, replay_with.since, replay_with.until, false, NULL, NULL, replay_with.events);
    v_request.queries := '{}';
    IF NOT EXISTS (SELECT FROM pg_catalog.unnest(v_request.sources) s WHERE s.projection = replay_with.projection) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = pg_catalog.format('model "%s" has no projection "%s" of these events', replay_with.model, replay_with.projection),
            HINT = pg_catalog.format('SELECT name, source FROM threadline.replay_projections WHERE model = %L;', replay_with.model);
    END IF;
    IF replay_with.step IS NOT NULL THEN
        PERFORM threadline.try_expression('the step of projection ' || replay_with.projection, threadline.step_expression(replay_with.step), 'jsonb', '(SELECT NULL::jsonb AS state, NULL::jsonb AS event) e');
    END IF;
    v_before := threadline.check_model(v_request);
    v_request.overrides := pg_catalog.jsonb_build_object(replay_with.projection, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'step', replay_with.step, 'mapping', replay_with.mapping, 'init', replay_with.init)));
    v_run := threadline.execute_stream(v_request, NULL, NULL, false);
    RETURN threadline.results_compared(v_before, threadline.result_of_run(v_request, v_run.outcome, v_run.states));
END
$$;
COMMENT ON FUNCTION threadline.replay_with(text, text, text, text, jsonb, timestamptz, timestamptz, text) IS
'What a model would say with another step, mapping or init of one projection (NULL: as defined): the same as replay_without(). Nothing is changed. Errors: 42704 no such model or projection; what is wrong with the step is the server''s own error.';

-- Invariants of kind query: an ordinary query that returns the violating rows is run on the tables as they were after each commit that
-- touched one of them. The states are those of incident_bisect (bisect_state.sql), from the tables' oldest baselines on.

-- Stands before a statement, so that the context of an error in it tells what it was for.
CREATE FUNCTION threadline.query_note(p_model text, p_name text, p_place text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN format('/* %s */ ', replace(replace(concat_ws(', ', format('invariant "%s" of model "%s"', p_name, p_model), p_place), '*/', '* /'), '/*', '/ *'));

-- A query as one to select from, on lines of its own since it may end in a comment.
CREATE FUNCTION threadline.query_source(p_sql text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN concat('(', rtrim(p_sql, E' \t\r\n;'), E'\n) AS threadline_row');

-- The relations that a query names. No SET search_path: the caller's own says what its names mean.
CREATE FUNCTION threadline.query_relations(p_note text, p_sql text) RETURNS regclass[]
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_relations oid[];
BEGIN
    EXECUTE p_note || 'SELECT (threadline.query_findings($1)).relations' INTO v_relations USING 'SELECT FROM ' || threadline.query_source(p_sql);
    RETURN ARRAY(SELECT DISTINCT r.relation::regclass FROM pg_catalog.unnest(v_relations) AS r (relation) ORDER BY 1);
END
$$;

-- All rows that a query returns, 100 of each key: {key: {"n", "rows"}}. As by the neighbour: the key's columns as texts.
CREATE FUNCTION threadline.query_statement(p_sql text, p_key jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($statement$
        SELECT coalesce(pg_catalog.jsonb_object_agg(k.key, pg_catalog.jsonb_build_object('n', k.n, 'rows', k.rows)), '{}')
        FROM (SELECT r.key, pg_catalog.count(*) AS n, pg_catalog.jsonb_agg(pg_catalog.to_jsonb(r.threadline_row) ORDER BY r.no) FILTER (WHERE r.no <= 100) AS rows
              FROM (SELECT threadline_row, q.key, pg_catalog.row_number() OVER (PARTITION BY q.key) AS no
                    FROM (SELECT threadline_row, %s AS key FROM %s) q) r
              GROUP BY r.key) k$statement$,
        coalesce('pg_catalog.jsonb_build_array(' || (
            SELECT string_agg(format('threadline_row.%I::text', c.name), ', ' ORDER BY c.no)
            FROM jsonb_array_elements_text(p_key) WITH ORDINALITY AS c (name, no)) || ')::text', '''[]''::text'),
        threadline.query_source(p_sql))
$$;

-- What a query finds on the state there is now. What it calls may write as little as in a read-only transaction. Errors pass as they
-- are. No SET here: it runs in the caller's settings.
CREATE FUNCTION threadline.query_answer(p_note text, p_statement text) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_answer jsonb;
BEGIN
    BEGIN
        -- The server gives the transaction back its own when this block, a subtransaction, ends.
        PERFORM pg_catalog.set_config('transaction_read_only', 'on', true);
        EXECUTE p_note || p_statement INTO v_answer;
    EXCEPTION WHEN SQLSTATE 'TFB00' THEN
        RAISE;
    END;
    RETURN v_answer;
END
$$;

-- Looks at the query of an invariant that is being defined.
CREATE FUNCTION threadline.try_invariant_query(p_what text, p_sql text, p_key jsonb = NULL) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_query constant text := 'the query of ' || p_what;
    v_source constant text := threadline.query_source(p_sql);
    v_cursor refcursor;
    v_findings record;
    v_named regclass[];
    v_tables threadline.bisect_table[];
    v_table threadline.bisect_table;
    v_name text;
BEGIN
    -- A cursor takes one query; what writes is none to select from.
    BEGIN
        OPEN v_cursor FOR EXECUTE p_sql;
        CLOSE v_cursor;
    EXCEPTION WHEN invalid_cursor_definition THEN
        RAISE EXCEPTION USING
            ERRCODE = 'syntax_error',
            MESSAGE = pg_catalog.format('%s is not one query', v_query),
            DETAIL = SQLERRM,
            HINT = '{"sql": "SELECT id FROM accounts WHERE balance < 0"}';
    END;
    v_findings := threadline.query_findings('SELECT FROM ' || v_source);
    IF p_key IS NOT NULL AND p_key <> 'null' THEN
        IF pg_catalog.jsonb_typeof(p_key) <> 'array' OR p_key = '[]' THEN
            PERFORM threadline.refuse_spec(p_what, '"key" is no list of columns that the query returns.', 'query');
        END IF;
        PERFORM threadline.try_query('SELECT ' || (SELECT pg_catalog.string_agg(pg_catalog.format('threadline_row.%I', c.name), ', ') FROM pg_catalog.jsonb_array_elements_text(p_key) AS c (name))
                                     || ' FROM ' || v_source || ' LIMIT 0');
    END IF;
    IF v_findings.is_volatile THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('%s calls a volatile function', v_query),
            DETAIL = p_sql,
            HINT = 'A replay must come out the same each time: declare a function that only computes IMMUTABLE or STABLE.';
    END IF;
    v_named := ARRAY(SELECT DISTINCT r.relation::regclass FROM pg_catalog.unnest(v_findings.relations) AS r (relation) ORDER BY 1);
    v_tables := threadline.query_tables(v_query, v_named);
    PERFORM threadline.bisect_refuse_qualified(ARRAY(SELECT n.relation FROM pg_catalog.unnest(v_named) AS n (relation) WHERE NOT pg_catalog.pg_table_is_visible(n.relation)), v_query);
    PERFORM threadline.require_temporary('replay_add_invariant', 'An invariant of kind query needs temporary tables, now and whenever it is checked.');
    -- What is still found when other relations have the tables' names was not named by them alone.
    BEGIN
        FOREACH v_table IN ARRAY v_tables LOOP
            PERFORM threadline.model_table(v_table.relation);
            SELECT c.relname INTO v_name FROM pg_catalog.pg_class c WHERE c.oid = v_table.relation;
            EXECUTE pg_catalog.format('CREATE TEMPORARY VIEW %I AS SELECT * FROM ONLY %s', v_name, threadline.qualified_name(v_table.relation));
        END LOOP;
        PERFORM threadline.require_temporary_first();
        v_findings := threadline.query_findings('SELECT FROM ' || v_source);
        RAISE EXCEPTION USING ERRCODE = 'TFB01', MESSAGE = 'back to the tables';
    EXCEPTION WHEN SQLSTATE 'TFB01' THEN
        PERFORM threadline.bisect_refuse_qualified(v_findings.relations::regclass[], v_query);
    END;
END
$$;

-- The tables of queries, each of which has a past.
CREATE FUNCTION threadline.query_tables(p_what text, p_named regclass[]) RETURNS threadline.bisect_table[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_tables constant threadline.bisect_table[] := threadline.bisect_tables(p_named, 9223372036854775807, p_what);
    v_name text;
BEGIN
    SELECT threadline.qualified_name(n.relation) INTO v_name FROM unnest(p_named) AS n (relation)
    WHERE n.relation <> ALL (ARRAY(SELECT t.relation FROM unnest(v_tables) t)) ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%s reads table %s, which has no past that you can read', p_what, v_name),
            HINT = format('SELECT threadline.audit_enable(%L); gives it one from then on.', v_name);
    END IF;
    RETURN v_tables;
END
$$;

-- The tables that a model's queries name, in the caller's search_path.
CREATE FUNCTION threadline.queried_tables(p_model text, p_invariants text[]) RETURNS SETOF integer
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_invariant record;
BEGIN
    FOR v_invariant IN
        SELECT i.name, i.spec ->> 'sql' AS sql FROM threadline.replay_invariants i
        WHERE i.model = p_model AND i.kind = 'query' AND (p_invariants IS NULL OR i.name = ANY (p_invariants))
    LOOP
        RETURN QUERY
        SELECT t.table_id FROM threadline.readable_table t
        WHERE t.relation = ANY (threadline.query_relations(threadline.query_note(p_model, v_invariant.name, NULL), v_invariant.sql));
    END LOOP;
END
$$;

-- The last change that a transaction made of some tables.
CREATE FUNCTION threadline.last_change_of(p_transaction uuid, p_table_ids integer[]) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT c.id
        FROM threadline.readable_transaction x
        JOIN threadline.readable_change c ON c.transaction_id = x.id AND c.id >= lower(x.change_ids) AND c.id < upper(x.change_ids)
        WHERE x.id = p_transaction AND c.table_id = ANY (p_table_ids) AND c.op <> 2
        ORDER BY c.statement_no DESC, c.op DESC, c.id DESC LIMIT 1);

-- Why queries on a table cannot be judged, or not fully.
CREATE FUNCTION threadline.query_doubts(p_name text, p_sql text, p_tables threadline.bisect_table[], p_end bigint) RETURNS SETOF jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('invariant', p_name, 'table', threadline.qualified_name(t.relation), 'reason', 'key_changed')
    FROM unnest(p_tables) t WHERE threadline.bisect_key_changed(t, p_end)
    UNION ALL
    SELECT DISTINCT jsonb_build_object('invariant', p_name, 'table', threadline.qualified_name(t.relation), 'reason', 'redacted', 'column', f.name_now)
    FROM unnest(p_tables) t
    JOIN threadline.readable_table r ON r.table_id = t.table_id
    CROSS JOIN LATERAL threadline.column_fate(t.table_id, t.relation) f
    WHERE f.name_now IS NOT NULL AND (f.redact IS NOT NULL OR f.name_now = ANY (r.exclude::text[] || r.mask))
      AND strpos(lower(p_sql), lower(f.name_now)) > 0
$$;

-- Goes through the states of the queries' tables, as far as the engine went. p_outcome: what it found. Returns what run_end does of
-- violations, counts by name, the doubts, and how often each query was run.
CREATE FUNCTION threadline.watch_queries(p_request threadline.replay_request, p_outcome jsonb) RETURNS jsonb
LANGUAGE plpgsql SET jit = off
AS $$
DECLARE
    v_stopped constant boolean := (p_outcome ->> 'stopped')::boolean;
    -- After the last step: the event that the engine went no further than, or the last.
    v_next_at constant timestamptz := threadline.from_engine_time(CASE WHEN v_stopped THEN p_outcome ->> 'stopped_by' ELSE p_outcome #>> '{last,1}' END::bigint);
    v_end constant bigint := least(CASE WHEN v_stopped THEN (p_outcome #>> '{last,0}')::bigint END, p_request.horizon, 9223372036854775807);
    v_since constant timestamptz := p_request.since;
    v_count constant integer := pg_catalog.cardinality(p_request.queries);
    v_invariant record;
    v_tables threadline.bisect_table[];
    v_table threadline.bisect_table;
    v_loaded threadline.bisect_table[] := '{}';
    v_named regclass[];
    v_relations regclass[];
    v_sources text[] := '{}';
    v_sql text[] := '{}';
    v_checks jsonb[] := '{}';
    v_places text[] := '{}';                       -- of the query's tables among v_tables, as arrays
    v_known bigint[] := '{}';
    v_touched boolean[] := '{}';
    v_touched_by uuid[] := '{}';
    v_touched_at timestamptz[] := '{}';
    v_changed bigint[] := '{}';
    v_runs integer[] := '{}';
    v_now jsonb[] := '{}';
    v_open jsonb[] := '{}';
    v_found jsonb[] := '{}';
    v_counts bigint[] := '{}';
    v_is_warning boolean[] := '{}';
    v_fails boolean := false;
    v_doubts jsonb := '[]';
    v_step record;
    v_last_no bigint;
    v_last_at timestamptz;
    v_last_id uuid;
    v_found_in bigint;                              -- the check point: the last event's commit before it, and its time
    v_found_at timestamptz;
    v_slice numeric;
    v_answer jsonb;
    v_key text;
    v_is_due boolean;
    v_rows bigint;
    v_stale bigint := 0;
    v_most bigint := 20000;
    v_check jsonb;
    v_change bigint;
BEGIN
    PERFORM threadline.bisect_open('replay_check', coalesce(
        (SELECT pg_catalog.format('SELECT threadline.replay_check(%L, invariants => %L); leaves out those of kind query.', p_request.model, p_request.invariants)
         WHERE pg_catalog.cardinality(p_request.invariants) > 0),
        'Check it in a transaction that may write, on the primary.'));
    PERFORM threadline.require_temporary_first();
    SELECT pg_catalog.array_agg(DISTINCT r.relation) INTO v_named
    FROM threadline.replay_invariants i
    CROSS JOIN LATERAL pg_catalog.unnest(threadline.query_relations(threadline.query_note(i.model, i.name, NULL), i.spec ->> 'sql')) AS r (relation)
    WHERE i.model = p_request.model AND i.name = ANY (p_request.queries);
    PERFORM threadline.bisect_refuse_qualified(ARRAY(SELECT n.relation FROM pg_catalog.unnest(v_named) AS n (relation) WHERE NOT pg_catalog.pg_table_is_visible(n.relation)), 'a query');
    v_tables := threadline.query_tables('a query', v_named);
    FOR v_place IN 1 .. pg_catalog.cardinality(v_tables) LOOP
        v_table := v_tables[v_place];
        SELECT s.changes_from, s.since, false INTO v_table.first_change_id, v_table.since, v_table.purged
        FROM pg_catalog.unnest(p_request.sources) s WHERE s.table_id = v_table.table_id AND s.projection IS NULL;
        v_table.counted := threadline.was_full_row(v_table.table_id, v_table.first_change_id);
        v_tables[v_place] := v_table;
    END LOOP;
    FOR v_invariant IN
        SELECT i.*, ARRAY(SELECT t.n FROM pg_catalog.unnest(v_tables) t
                          WHERE t.relation = ANY (threadline.query_relations(threadline.query_note(i.model, i.name, NULL), i.spec ->> 'sql'))) AS tables
        FROM pg_catalog.unnest(p_request.queries) WITH ORDINALITY AS q (name, n)
        JOIN threadline.replay_invariants i ON i.model = p_request.model AND i.name = q.name
        ORDER BY q.n
    LOOP
        v_sql := v_sql || threadline.query_statement(v_invariant.spec ->> 'sql', nullif(v_invariant.spec -> 'key', 'null'));
        v_sources := v_sources || (v_invariant.spec ->> 'sql');
        v_checks := v_checks || threadline.check_point(v_invariant.name, v_invariant.check_at);
        v_places := v_places || v_invariant.tables::text;
        v_touched := v_touched || false;
        v_changed := v_changed || 0::bigint;
        v_runs := v_runs || 0;
        v_counts := v_counts || 0::bigint;
        v_is_warning := v_is_warning || (v_invariant.severity = 'warning');
        v_now := v_now || '{}'::jsonb;
        v_open := v_open || '{}'::jsonb;
        v_doubts := v_doubts || coalesce((
            SELECT pg_catalog.jsonb_agg(d) FROM threadline.query_doubts(v_invariant.name, v_invariant.spec ->> 'sql',
                ARRAY(SELECT t FROM pg_catalog.unnest(v_tables) t WHERE t.n = ANY (v_invariant.tables)), v_end) d), '[]');
        v_known := v_known || CASE WHEN NOT v_doubts @> pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('invariant', v_invariant.name, 'reason', 'key_changed'))
                                   THEN threadline.known_from(p_request.sources, ARRAY(SELECT t.table_id FROM pg_catalog.unnest(v_tables) t WHERE t.n = ANY (v_invariant.tables))) END;
    END LOOP;

    PERFORM threadline.bisect_window((SELECT coalesce(pg_catalog.min(t.since), '-infinity') FROM pg_catalog.unnest(v_tables) t), p_request.until, 0, v_end);
    IF p_request.until = 'infinity' THEN
        INSERT INTO pg_temp.threadline_bisect_transaction
        SELECT 9223372036854775807, x.id, pg_catalog.now(), x.actor_ref, pg_catalog.lower(x.change_ids)
        FROM threadline.pending_transaction() x WHERE v_end = 9223372036854775807;
    END IF;
    FOREACH v_table IN ARRAY v_tables LOOP
        v_loaded := v_loaded || threadline.bisect_load(v_table, 0);
    END LOOP;
    PERFORM threadline.bisect_steps(v_loaded);
    PERFORM threadline.forget_plans();
    FOR v_no IN 1 .. v_count LOOP
        -- What now is not found by its name was not named by it alone.
        v_relations := threadline.query_relations(threadline.query_note(p_request.model, p_request.queries[v_no], NULL), v_sources[v_no]);
        PERFORM threadline.bisect_refuse_qualified(v_relations, pg_catalog.format('the query of invariant "%s"', p_request.queries[v_no]));
    END LOOP;

    FOR v_step IN
        SELECT s.commit_no, s.tables, s.row_counts, x.id, x.committed_at
        FROM pg_temp.threadline_bisect_step s JOIN pg_temp.threadline_bisect_transaction x ON x.commit_no = s.commit_no
        UNION ALL SELECT NULL, NULL, NULL, NULL, NULL
        ORDER BY 1 NULLS LAST
    LOOP
        -- First the check points between the last step and this one, then those after it.
        FOR v_phase IN 0 .. 1 LOOP
            IF v_phase = 0 THEN
                CONTINUE WHEN v_last_no IS NULL;
            ELSE
                EXIT WHEN v_step.commit_no IS NULL;
                v_stale := v_stale + threadline.bisect_apply(v_loaded, v_step.tables, v_step.commit_no - 1, v_step.commit_no);
                IF v_stale > v_most THEN
                    PERFORM threadline.bisect_compact(v_loaded);
                    v_stale := 0;
                    v_most := 20000 + (SELECT pg_catalog.sum(c.reltuples) FROM pg_catalog.unnest(v_loaded) t
                                       JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass('pg_temp.threadline_bisect_state_' || t.n));
                END IF;
                v_last_no := v_step.commit_no;
                v_last_at := v_step.committed_at;
                v_last_id := v_step.id;
            END IF;
            FOR v_no IN 1 .. v_count LOOP
                v_check := v_checks[v_no];
                v_is_due := false;
                v_found_in := v_last_no;
                v_found_at := v_last_at;
                IF v_phase = 0 AND v_check ? 'Slices' AND v_touched[v_no] THEN
                    v_slice := threadline.slice_of(v_last_at, v_check);
                    v_is_due := v_slice <> threadline.slice_of(coalesce(v_step.committed_at, v_next_at), v_check);
                    IF v_is_due THEN
                        -- Other tables of the model may have changed in the same slice later.
                        SELECT x.commit_no, x.committed_at INTO v_found_in, v_found_at
                        FROM pg_temp.threadline_bisect_transaction x
                        WHERE x.commit_no >= v_last_no AND (x.commit_no < v_step.commit_no OR v_step.commit_no IS NULL) AND threadline.slice_of(x.committed_at, v_check) = v_slice
                          AND (x.commit_no = v_last_no OR EXISTS (
                              SELECT FROM threadline.readable_change c
                              WHERE c.transaction_id = x.id AND c.op <> 2
                                AND c.table_id = ANY (ARRAY(SELECT s.table_id FROM pg_catalog.unnest(p_request.sources) s WHERE s.projection IS NULL))))
                        ORDER BY x.commit_no DESC LIMIT 1;
                    END IF;
                END IF;
                IF v_phase = 0 AND v_step.commit_no IS NULL AND NOT v_stopped AND NOT v_is_due THEN
                    v_is_due := true;
                    v_found_in := coalesce((p_outcome #>> '{last,0}')::bigint, v_last_no);
                    v_found_at := coalesce(threadline.from_engine_time((p_outcome #>> '{last,1}')::bigint), v_last_at);
                ELSIF v_phase = 1 AND v_step.tables && v_places[v_no]::integer[] THEN
                    v_touched[v_no] := true;
                    v_touched_by[v_no] := v_step.id;
                    v_touched_at[v_no] := v_step.committed_at;
                    v_is_due := v_check IN ('"Event"', '"Statement"', '"Commit"');
                    IF v_check ? 'Events' THEN
                        v_rows := (SELECT pg_catalog.sum(r.row_count) FROM ROWS FROM (pg_catalog.unnest(v_step.tables), pg_catalog.unnest(v_step.row_counts)) AS r (n, row_count)
                                   WHERE r.n = ANY (v_places[v_no]::integer[]));
                        v_is_due := v_changed[v_no] / (v_check ->> 'Events')::bigint <> (v_changed[v_no] + v_rows) / (v_check ->> 'Events')::bigint;
                        v_changed[v_no] := v_changed[v_no] + v_rows;
                    END IF;
                END IF;
                CONTINUE WHEN NOT (v_is_due AND v_touched[v_no] AND coalesce(v_last_no >= v_known[v_no], false));
                v_answer := threadline.query_answer(
                    threadline.query_note(p_request.model, p_request.queries[v_no], pg_catalog.format('after transaction %s, committed at %s', v_last_id, v_last_at)), v_sql[v_no]);
                v_runs[v_no] := v_runs[v_no] + 1;
                v_touched[v_no] := false;
                FOR v_key IN SELECT k.key FROM pg_catalog.jsonb_object_keys(v_now[v_no]) AS k (key) WHERE NOT v_answer ? k.key LOOP
                    IF v_open[v_no] ? v_key THEN
                        v_found[(v_open[v_no] ->> v_key)::integer] := v_found[(v_open[v_no] ->> v_key)::integer]
                            || pg_catalog.jsonb_build_object('repaired_at', threadline.engine_time(v_found_at));
                        IF NOT threadline.is_reported(v_found[(v_open[v_no] ->> v_key)::integer], v_since) THEN
                            v_counts[v_no] := v_counts[v_no] - 1;
                        END IF;
                        v_open[v_no] := v_open[v_no] - v_key;
                    END IF;
                END LOOP;
                v_change := NULL;
                FOR v_key IN SELECT k.key FROM pg_catalog.jsonb_object_keys(v_answer) AS k (key) WHERE NOT v_now[v_no] ? k.key ORDER BY k.key LOOP
                    v_counts[v_no] := v_counts[v_no] + 1;
                    -- So many are kept as by the engine, with the first of each invariant and all that were before the time that is asked about.
                    CONTINUE WHEN pg_catalog.cardinality(v_found) >= 1000 AND v_counts[v_no] > 1 AND v_found_at > v_since;
                    -- That of the last transaction to touch a table of it, which may be long ago.
                    v_change := coalesce(v_change, threadline.last_change_of(coalesce(v_touched_by[v_no], v_last_id),
                        ARRAY(SELECT t.table_id FROM pg_catalog.unnest(v_tables) t WHERE t.n = ANY (v_places[v_no]::integer[]))));
                    v_found := v_found || pg_catalog.jsonb_build_object(
                        'invariant', v_no - 1, 'key', v_key::jsonb, 'step', NULL, 'change_id', v_change, 'time', threadline.engine_time(coalesce(v_touched_at[v_no], v_last_at)),
                        'found_at', threadline.engine_time(v_found_at), 'found_in', v_found_in, 'at_commit', true, 'states', pg_catalog.jsonb_build_array('[]'::jsonb, v_answer #> ARRAY[v_key, 'rows']),
                        'event', NULL, 'recent', '[]'::jsonb, 'repaired_at', NULL,
                        'reason', pg_catalog.format('the query returns %s', CASE WHEN v_answer #>> ARRAY[v_key, 'n'] = '1' THEN '1 row' ELSE (v_answer #>> ARRAY[v_key, 'n']) || ' rows' END));
                    v_open[v_no] := v_open[v_no] || pg_catalog.jsonb_build_object(v_key, pg_catalog.cardinality(v_found));
                END LOOP;
                v_now[v_no] := v_answer;
            END LOOP;
            v_fails := v_found_at > v_since AND EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest(v_counts), pg_catalog.unnest(v_is_warning)) AS c (n, is_warning) WHERE c.n > 0 AND NOT c.is_warning);
            EXIT WHEN p_request.stop AND v_fails;
        END LOOP;
        EXIT WHEN p_request.stop AND v_fails;
    END LOOP;
    DROP TABLE pg_temp.threadline_bisect_transaction;
    RETURN pg_catalog.jsonb_build_object(
        'violations', coalesce((SELECT pg_catalog.jsonb_agg(f.value ORDER BY f.no) FROM pg_catalog.unnest(v_found) WITH ORDINALITY AS f (value, no) WHERE threadline.is_reported(f.value, v_since)), '[]'),
        'counts', (SELECT pg_catalog.jsonb_object_agg(c.name, c.n) FROM ROWS FROM (pg_catalog.unnest(p_request.queries), pg_catalog.unnest(v_counts)) AS c (name, n)),
        'doubts', v_doubts,
        'runs', (SELECT pg_catalog.jsonb_object_agg(r.name, r.runs) FROM ROWS FROM (pg_catalog.unnest(p_request.queries), pg_catalog.unnest(v_runs)) AS r (name, runs)));
END
$$;

-- The slice of time that a time lies in; NULL for none.
CREATE FUNCTION threadline.slice_of(p_at timestamptz, p_check jsonb) RETURNS numeric
LANGUAGE sql STABLE
RETURN floor(extract(epoch FROM p_at) * 1000000 / (p_check ->> 'Slices')::numeric);

-- Not over before the time that is asked about.
CREATE FUNCTION threadline.is_reported(p_found jsonb, p_since timestamptz) RETURNS boolean
LANGUAGE sql STABLE
RETURN (p_found ->> 'found_at')::bigint > threadline.engine_time(p_since) OR coalesce((p_found ->> 'repaired_at')::bigint > threadline.engine_time(p_since), true);

-- Violations of the engine, told already, and of queries: by check points, and at one by the change that is named. As many as the
-- engine tells, and the first of each invariant.
CREATE FUNCTION threadline.merge_violations(p_request threadline.replay_request, p_found jsonb, p_told jsonb, p_of_queries jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_of_queries threadline.replay_request := p_request;
    v_told_of_queries jsonb;
BEGIN
    v_of_queries.invariants := p_request.queries;
    v_told_of_queries := threadline.violations_of_run(v_of_queries, p_of_queries);
    RETURN (
        SELECT coalesce(pg_catalog.jsonb_agg(o.told ORDER BY o.place) FILTER (WHERE o.place <= 1000 OR o.nth = 1), '[]')
        FROM (
            SELECT p.told, p.place, pg_catalog.row_number() OVER (PARTITION BY p.told ->> 'invariant' ORDER BY p.place) AS nth
            FROM (
                SELECT m.told, pg_catalog.row_number() OVER (ORDER BY (m.found ->> 'found_in')::bigint, (m.found ->> 'at_commit')::boolean, m.found_step,
                                                                      c.commit_no, c.statement_no, c.op, (m.found ->> 'change_id')::bigint, m.no, m.n) AS place
                FROM (
                    SELECT t.value AS told, f.value AS found, CASE WHEN NOT (f.value ->> 'at_commit')::boolean THEN (f.value ->> 'found_step')::bigint END AS found_step,
                           coalesce(i.no, 2147483647) AS no, f.n
                    FROM pg_catalog.jsonb_array_elements(p_found) WITH ORDINALITY AS f (value, n)
                    JOIN pg_catalog.jsonb_array_elements(p_told) WITH ORDINALITY AS t (value, n) ON t.n = f.n
                    LEFT JOIN threadline.replay_invariants i ON i.model = p_request.model AND i.name = t.value ->> 'invariant'
                    UNION ALL
                    SELECT f.told, f.value, NULL, i.no, f.n
                    FROM ROWS FROM (pg_catalog.jsonb_array_elements(v_told_of_queries), pg_catalog.jsonb_array_elements(p_of_queries)) WITH ORDINALITY AS f (told, value, n)
                    JOIN threadline.replay_invariants i ON i.model = p_request.model AND i.name = f.told ->> 'invariant') m
                LEFT JOIN LATERAL (
                    -- Where the change stands in a run, as far as one transaction's are compared: see stream_statement.
                    SELECT coalesce(x.commit_no, CASE WHEN x.id IS NULL THEN c.id ELSE 9223372036854775807 END) AS commit_no, c.statement_no, c.op
                    FROM threadline.readable_change c
                    LEFT JOIN LATERAL (SELECT x.* FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x ON true
                    WHERE c.id = (m.found ->> 'change_id')::bigint) c ON true) p) o);
END
$$;

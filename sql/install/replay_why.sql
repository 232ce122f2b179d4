-- Why an invariant broke: the events that its failing key depends on, as events that replay_check() takes; the fewest that show the failure;
-- and the transactions without which there is none.

-- A violation of a result, by its number from 1 on.
CREATE FUNCTION threadline.violation_of(p_result jsonb, p_no integer) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_violation constant jsonb := p_result -> 'violations' -> (p_no - 1);
BEGIN
    IF p_result -> 'request' IS NULL OR v_violation IS NULL OR p_no < 1 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = CASE WHEN p_result -> 'request' IS NULL THEN 'this is no result of replay_check() of a model' ELSE format('the result has no violation %s', p_no) END,
            HINT = 'Give what replay_check(''model'') returned, with its violations, and the number of one: SELECT no, invariant, reason FROM threadline.replay_violations(…);';
    END IF;
    RETURN v_violation;
END
$$;

-- A request for the invariant of a violation alone, and the projection that it is over.
CREATE FUNCTION threadline.violation_request(p_model text, p_violation jsonb, p_events text) RETURNS threadline.replay_request
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_is_error constant boolean := p_violation ->> 'kind' = 'error';
BEGIN
    RETURN threadline.run_request(p_model, '-infinity', 'infinity', false,
        CASE WHEN v_is_error THEN '{}'::text[] ELSE ARRAY[p_violation ->> 'invariant'] END,
        CASE WHEN v_is_error THEN ARRAY[pg_catalog.regexp_replace(p_violation ->> 'invariant', '_does_not_fail$', '')]
             ELSE ARRAY(SELECT i.projection FROM threadline.replay_invariants i WHERE i.model = p_model AND i.name = p_violation ->> 'invariant' AND i.projection IS NOT NULL) END,
        p_events);
END
$$;

-- The changes that the violated expression depends on: those of its key, the last p_most of them.
CREATE FUNCTION threadline.violation_slice(p_result jsonb, p_violation jsonb, p_most integer) RETURNS bigint[]
LANGUAGE plpgsql
AS $$
DECLARE
    v_request threadline.replay_request;
    v_events constant text := p_result #>> '{request,events}';
    v_outcome jsonb;
    v_found jsonb;
    v_change threadline.replay_change;
    v_id constant bigint := (p_violation ->> 'change_id')::bigint;
    v_ids bigint[];
    v_spec jsonb;
    v_source threadline.replay_source;
    v_compiled threadline.replay_compiled;
BEGIN
    v_request := threadline.violation_request(p_result #>> '{request,model}', p_violation, v_events);
    v_request.plan := v_request.plan || pg_catalog.jsonb_build_object('recent', p_most);
    IF p_violation ->> 'kind' IN ('requires', 'forbids', 'deadline') AND pg_catalog.cardinality(v_request.sources) = 1 THEN
        -- What an event is judged by does not touch the key: all events of the key are taken, as of one that is always wrong.
        SELECT i.spec INTO v_spec FROM threadline.replay_invariants i WHERE i.model = p_result #>> '{request,model}' AND i.name = p_violation ->> 'invariant';
        v_source := v_request.sources[1];
        IF v_spec ->> 'key' IS NOT NULL THEN
            v_compiled := threadline.compile_invariant('slice', 'key_bound', pg_catalog.jsonb_build_object('key', v_spec -> 'key', 'aggregate', 'count(*)', 'check', 'value < 0'), 'end', false,
                                                       ARRAY[threadline.typed_nulls(v_source.relation)]);
            v_source.inputs := v_compiled.inputs;
            v_request.sources := ARRAY[v_source];
            v_request.tests := '{}';
            v_request.plan := v_request.plan || pg_catalog.jsonb_build_object('invariants', pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(
                'name', 'slice', 'kind', v_compiled.kind, 'check_at', v_compiled.check_at, 'known_from', -9223372036854775808, 'is_warning', false,
                'inputs', pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('source', 0, 'first', 0, 'count', pg_catalog.cardinality(v_compiled.inputs))))));
        END IF;
    END IF;
    IF v_events IS NULL THEN
        -- What came after the failure is of no account.
        v_request.horizon := (p_violation #>> '{transaction,commit_no}')::bigint;
    END IF;
    v_outcome := (threadline.execute_stream(v_request, NULL, NULL, false)).outcome;
    SELECT f.value INTO v_found
    FROM pg_catalog.jsonb_array_elements(v_outcome -> 'violations') AS f (value)
    WHERE ((f.value ->> 'change_id')::bigint = v_id OR v_compiled IS NOT NULL) AND (f.value -> 'key' = 'null' OR f.value -> 'key' = p_violation -> 'key' OR p_violation -> 'key' = '[]');
    v_ids := ARRAY(SELECT r.id::bigint FROM pg_catalog.jsonb_array_elements_text(coalesce(v_found -> 'recent', '[]')) AS r (id));
    IF v_events IS NULL AND (v_found IS NULL OR v_found -> 'key' = 'null' OR v_ids = '{}' OR v_spec IS NOT NULL AND v_compiled IS NULL) THEN
        v_change := threadline.run_change(v_id);
        SELECT coalesce(pg_catalog.array_agg(c.id), '{}') INTO v_ids
        FROM threadline.readable_table t
        CROSS JOIN LATERAL threadline.row_tenures(t.table_id, t.relation, t.key_columns, v_change.row_key, v_change.key, 1000) n
        CROSS JOIN LATERAL threadline.row_page(t.table_id, n, '-infinity', 'infinity', NULL, 1000) c
        WHERE t.table_id = v_change.table_id;
    END IF;
    IF v_events IS NOT NULL THEN
        RETURN ARRAY(SELECT DISTINCT i.id FROM pg_catalog.unnest(v_ids || v_id) AS i (id) WHERE i.id <= v_id);
    END IF;
    RETURN ARRAY(
        SELECT c.id
        FROM threadline.readable_change l
        LEFT JOIN threadline.readable_transaction lx ON lx.id = l.transaction_id
        JOIN threadline.readable_change c ON c.id = ANY (v_ids || v_id)
        LEFT JOIN threadline.readable_transaction x ON x.id = c.transaction_id
        WHERE l.id = v_id AND (coalesce(x.commit_no, 9223372036854775807), c.statement_no, c.op, c.id) <= (coalesce(lx.commit_no, 9223372036854775807), l.statement_no, l.op, l.id));
END
$$;

-- Changes as events, numbered in commit order: [{"seq", "at", "event"}]. Of an external log the events as they are.
CREATE FUNCTION threadline.events_of_changes(p_events text, p_ids bigint[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_documents jsonb;
BEGIN
    IF p_events IS NOT NULL THEN
        EXECUTE pg_catalog.format(E'SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(''seq'', e.seq, ''at'', e.at, ''event'', e.event || pg_catalog.jsonb_build_object(''transaction'', coalesce((e.event ->> ''transaction'')::bigint, e.seq))) ORDER BY e.seq), ''[]'') FROM (%s\n) AS e (seq, at, event) WHERE e.seq = ANY ($1)', p_events)
        INTO v_documents USING p_ids;
        RETURN v_documents;
    END IF;
    SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('seq', o.seq, 'at', o.at, 'event', o.event) ORDER BY o.seq), '[]') INTO v_documents
    FROM (
        SELECT pg_catalog.row_number() OVER (ORDER BY x.commit_no NULLS LAST, c.statement_no, c.op, c.id) AS seq, coalesce(x.committed_at, c.captured_at) AS at,
               pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
                   'table', c.table_schema || '.' || c.table_name, 'op', c.op_name, 'key', c.key, 'old_key', CASE WHEN c.op = 5 THEN c.old_key END,
                   'transaction', pg_catalog.dense_rank() OVER (ORDER BY x.commit_no NULLS LAST), 'statement', c.statement_no, 'change_id', c.id, 'transaction_id', c.transaction_id))
               || CASE WHEN c.op IN (0, 1) THEN pg_catalog.jsonb_build_object('old', c.old_image) WHEN c.op = 5 THEN pg_catalog.jsonb_build_object('old', c.new_image || coalesce(c.old_image, '{}'), 'new', c.new_image)
                       ELSE pg_catalog.jsonb_build_object('new', c.new_image) END
               || CASE WHEN c.new_exact IS NOT NULL THEN pg_catalog.jsonb_build_object('new_exact', c.new_exact) ELSE '{}' END
               || CASE WHEN c.op IN (0, 1) AND c.old_exact IS NOT NULL THEN pg_catalog.jsonb_build_object('old_exact', c.old_exact) ELSE '{}' END AS event
        FROM threadline.readable_change c
        LEFT JOIN threadline.readable_transaction x ON x.id = c.transaction_id
        WHERE c.id = ANY (p_ids)
    ) o;
    RETURN v_documents;
END
$$;

CREATE FUNCTION threadline.events_query(p_documents jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN format('SELECT (e.value ->> ''seq'')::bigint, (e.value ->> ''at'')::timestamptz, e.value -> ''event'' FROM pg_catalog.jsonb_array_elements(%L::jsonb) AS e (value)', p_documents);

-- What one invariant says of such events.
CREATE FUNCTION threadline.trial_run(p_model text, p_violation jsonb, p_documents jsonb, p_until timestamptz) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_request threadline.replay_request;
BEGIN
    v_request := threadline.violation_request(p_model, p_violation, threadline.events_query(p_documents));
    v_request.plan := v_request.plan || pg_catalog.jsonb_build_object('until', threadline.engine_time(p_until));
    RETURN (threadline.execute_stream(v_request, NULL, NULL, false)).outcome;
END
$$;

-- The events as they would have been without some transactions (numbers of theirs): what those did is left out, and what others did to the same
-- rows later is carried on: a number that they changed by some amount goes on being that much less, any other value stays as it was
-- until it is set anew; rows that they made are not there, rows that they deleted are.
CREATE FUNCTION threadline.events_without(p_documents jsonb, p_transactions bigint[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kept jsonb := '[]';
    v_rows jsonb := '{}';       -- by row: {"gone"} or {"row": as it is, "delta": {column: number}, "value": {column: value}}
    v_document jsonb;
    v_event jsonb;
    v_op text;
    v_from text;
    v_to text;
    v_row jsonb;
    v_old jsonb;
    v_new jsonb;
    v_column text;
BEGIN
    FOR v_document IN SELECT d.value FROM jsonb_array_elements(p_documents) WITH ORDINALITY AS d (value, n) ORDER BY d.n LOOP
        v_event := v_document -> 'event';
        v_op := v_event ->> 'op';
        IF v_event ->> 'table' IS NULL THEN
            IF NOT (v_event ->> 'transaction')::bigint = ANY (p_transactions) THEN
                v_kept := v_kept || v_document;
            END IF;
            CONTINUE;
        END IF;
        v_old := nullif(v_event -> 'old', 'null');
        v_new := nullif(v_event -> 'new', 'null');
        v_from := concat_ws('|', v_event ->> 'table', coalesce(v_event ->> 'old_key', v_event ->> 'key'));
        v_to := concat_ws('|', v_event ->> 'table', v_event ->> 'key');
        v_row := coalesce(v_rows -> v_from, '{}');
        IF (v_event ->> 'transaction')::bigint = ANY (p_transactions) THEN
            IF v_op IN ('insert', 'snapshot') THEN
                v_row := '{"gone": true}';
            ELSIF v_op = 'update' AND NOT v_row ? 'gone' THEN
                FOR v_column IN SELECT c.name FROM jsonb_object_keys(v_new) AS c (name) WHERE v_old -> c.name IS DISTINCT FROM v_new -> c.name LOOP
                    IF jsonb_typeof(v_old -> v_column) = 'number' AND jsonb_typeof(v_new -> v_column) = 'number' AND NOT coalesce(v_row -> 'value' ? v_column, false) THEN
                        v_row := v_row || jsonb_build_object('delta', coalesce(v_row -> 'delta', '{}') || jsonb_build_object(v_column,
                            coalesce((v_row #>> ARRAY['delta', v_column])::numeric, 0) + (v_new ->> v_column)::numeric - (v_old ->> v_column)::numeric));
                    ELSIF NOT coalesce(v_row -> 'value' ? v_column, false) THEN
                        v_row := v_row || jsonb_build_object('value', coalesce(v_row -> 'value', '{}') || jsonb_build_object(v_column, v_old -> v_column));
                    END IF;
                END LOOP;
                -- It keeps the key that it had.
                v_rows := v_rows - v_from;
            ELSIF v_op IN ('delete', 'truncate') AND NOT v_row ? 'gone' THEN
                v_row := v_row || '{"stays": true}';
            END IF;
            v_rows := v_rows || jsonb_build_object(v_to, v_row);
            CONTINUE;
        END IF;
        CONTINUE WHEN v_row ? 'gone' AND v_op NOT IN ('insert', 'snapshot');
        IF v_op IN ('insert', 'snapshot') THEN
            IF v_row ? 'stays' THEN
                v_event := v_event || '{"op": "update"}' || jsonb_build_object('old', v_new);
            END IF;
            v_rows := v_rows - v_to;
        ELSIF v_row <> '{}' THEN
            FOR v_column IN SELECT c.name FROM jsonb_object_keys(v_old) AS c (name) LOOP
                IF v_row -> 'value' ? v_column THEN
                    IF v_new IS NOT NULL AND v_new -> v_column IS NOT DISTINCT FROM v_old -> v_column THEN
                        v_new := v_new || jsonb_build_object(v_column, v_row -> 'value' -> v_column);
                        v_old := v_old || jsonb_build_object(v_column, v_row -> 'value' -> v_column);
                    ELSE
                        v_old := v_old || jsonb_build_object(v_column, v_row -> 'value' -> v_column);
                        v_row := v_row #- ARRAY['value', v_column];
                    END IF;
                ELSIF v_row -> 'delta' ? v_column THEN
                    v_old := v_old || jsonb_build_object(v_column, (v_old ->> v_column)::numeric - (v_row #>> ARRAY['delta', v_column])::numeric);
                    IF jsonb_typeof(v_new -> v_column) = 'number' THEN
                        v_new := v_new || jsonb_build_object(v_column, (v_new ->> v_column)::numeric - (v_row #>> ARRAY['delta', v_column])::numeric);
                    END IF;
                END IF;
            END LOOP;
            v_event := v_event || jsonb_build_object('old', v_old) || CASE WHEN v_new IS NOT NULL THEN jsonb_build_object('new', v_new) ELSE '{}' END;
            v_rows := (v_rows - v_from) || CASE WHEN v_op IN ('delete', 'truncate') THEN '{}' ELSE jsonb_build_object(v_to, v_row) END;
        END IF;
        v_kept := v_kept || jsonb_set(v_document, '{event}', v_event);
    END LOOP;
    RETURN v_kept;
END
$$;

-- Events that are the last of a key's, with what the key was before them in place of the others: the rows that they change as snapshots, and
-- the rest of its sum or count as a pinned state, so that it comes out as it was after them. NULL: it is not of such a kind.
CREATE FUNCTION threadline.pinned_events(p_model text, p_violation jsonb, p_documents jsonb) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    -- So many that it never seems empty.
    v_rows constant bigint := 1000000000;
    v_snapshots jsonb;
    v_pin jsonb := pg_catalog.jsonb_build_object('invariant', p_violation -> 'invariant', 'key', CASE WHEN p_violation -> 'key' = '[]' THEN '[null]' ELSE p_violation -> 'key' END, 'state', pg_catalog.jsonb_build_object('rows', v_rows, 'value', 0));
    v_document jsonb;
    v_reading jsonb;
BEGIN
    IF p_violation ->> 'kind' NOT IN ('key_bound', 'balance') OR p_violation -> 'state_after' = 'null' THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(pg_catalog.jsonb_agg(f.document - 'seq' || pg_catalog.jsonb_build_object('seq', -f.no)), '[]') INTO v_snapshots
    FROM (
        SELECT d.value || pg_catalog.jsonb_build_object('event', (d.value -> 'event') - '{old,old_key,old_exact,new_exact,change_id,transaction_id}'::text[]
                   || pg_catalog.jsonb_build_object('op', 'snapshot', 'transaction', 0, 'statement', 0, 'new', d.value #> '{event,old}', 'key', coalesce(d.value #> '{event,old_key}', d.value #> '{event,key}'))) AS document,
               pg_catalog.row_number() OVER (ORDER BY d.n) AS no
        FROM pg_catalog.jsonb_array_elements(p_documents) WITH ORDINALITY AS d (value, n)
        WHERE d.value #>> '{event,op}' IN ('update', 'delete', 'truncate')
          -- The row's first: what it was under this key was not made by one before.
          AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(p_documents) WITH ORDINALITY AS b (value, n)
                          WHERE b.n < d.n AND b.value #>> '{event,table}' = d.value #>> '{event,table}' AND b.value #>> '{event,key}' = coalesce(d.value #>> '{event,old_key}', d.value #>> '{event,key}'))
    ) f;
    v_document := pg_catalog.jsonb_build_object('seq', 0, 'at', p_documents #> '{0,at}', 'event', pg_catalog.jsonb_build_object('table', p_documents #> '{0,event,table}', 'op', 'pin', 'transaction', 0, 'statement', 1, 'pin', v_pin));
    SELECT g.value INTO v_reading
    FROM pg_catalog.jsonb_array_elements(threadline.trial_run(p_model, p_violation, v_snapshots || v_document || p_documents, 'infinity') -> 'groups') AS g (value)
    WHERE g.value -> 'key' = v_pin -> 'key';
    IF v_reading IS NULL THEN
        RETURN NULL;
    END IF;
    v_pin := v_pin || pg_catalog.jsonb_build_object('state', pg_catalog.jsonb_build_object(
        'rows', (p_violation #>> '{state_after,rows}')::bigint - (v_reading ->> 'rows')::bigint + v_rows,
        'value', (p_violation #>> '{state_after,value}')::numeric - coalesce((v_reading ->> 'value')::numeric, 0)));
    RETURN v_snapshots || pg_catalog.jsonb_set(v_document, '{event,pin}', v_pin) || p_documents;
EXCEPTION WHEN invalid_parameter_value THEN
    -- An aggregate that cannot be pinned.
    RETURN NULL;
END
$$;

-- The events as they would have been had a transaction changed a number of a row by so much more; later changes of the row carry it on.
CREATE FUNCTION threadline.events_adjusted(p_documents jsonb, p_transaction bigint, p_repairs jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kept jsonb := '[]';
    v_document jsonb;
    v_repair jsonb;
    v_key text;
    v_is_past boolean;
BEGIN
    FOR v_repair IN SELECT r.value FROM jsonb_array_elements(p_repairs) AS r (value) LOOP
        v_kept := '[]';
        v_key := v_repair ->> 'key';
        v_is_past := false;
        FOR v_document IN SELECT d.value FROM jsonb_array_elements(p_documents) WITH ORDINALITY AS d (value, n) ORDER BY d.n LOOP
            IF v_document #>> '{event,table}' = v_repair ->> 'table' AND coalesce(v_document #>> '{event,old_key}', v_document #>> '{event,key}') = v_key THEN
                IF v_is_past AND jsonb_typeof(v_document #> ARRAY['event', 'old', v_repair ->> 'column']) = 'number' THEN
                    v_document := jsonb_set(v_document, ARRAY['event', 'old', v_repair ->> 'column'], to_jsonb((v_document #>> ARRAY['event', 'old', v_repair ->> 'column'])::numeric + (v_repair ->> 'by')::numeric));
                END IF;
                v_is_past := v_is_past AND v_document #>> '{event,op}' NOT IN ('delete', 'truncate', 'insert') OR (v_document #>> '{event,transaction}')::bigint = p_transaction;
                IF v_is_past AND jsonb_typeof(v_document #> ARRAY['event', 'new', v_repair ->> 'column']) = 'number' THEN
                    v_document := jsonb_set(v_document, ARRAY['event', 'new', v_repair ->> 'column'], to_jsonb((v_document #>> ARRAY['event', 'new', v_repair ->> 'column'])::numeric + (v_repair ->> 'by')::numeric));
                END IF;
                v_key := v_document #>> '{event,key}';
            END IF;
            v_kept := v_kept || v_document;
        END LOOP;
        p_documents := v_kept;
    END LOOP;
    RETURN p_documents;
END
$$;

-- Whether a trial shows the failure of an event: that very one, with the same state after it.
CREATE FUNCTION threadline.trial_shows(p_outcome jsonb, p_seq bigint, p_after jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN EXISTS (SELECT FROM jsonb_array_elements(p_outcome -> 'violations') AS v (value)
               WHERE (v.value ->> 'change_id')::bigint = p_seq AND (v.value -> 'states' = 'null' OR v.value #> '{states,1}' = coalesce(p_after, 'null')));

-- Whether a trial still ends in failure: a key that is violated and not repaired, or the event itself. That rows do not
-- hang together, which may come of leaving transactions out, is none.
CREATE FUNCTION threadline.trial_fails(p_outcome jsonb, p_seq bigint, p_kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN EXISTS (SELECT FROM jsonb_array_elements(p_outcome -> 'violations') AS v (value)
               WHERE ((v.value ->> 'invariant')::integer = 0 OR p_kind = 'error') AND ((v.value ->> 'change_id')::bigint = p_seq OR v.value -> 'repaired_at' = 'null'));

-- The shortest end of the events that shows the failure by itself, what the rows of the key were before it standing in for the rest.
CREATE FUNCTION threadline.shortest_events(p_result jsonb, p_violation jsonb, p_documents jsonb) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_count constant integer := pg_catalog.jsonb_array_length(p_documents);
    v_target constant bigint := (SELECT (d.value ->> 'seq')::bigint FROM pg_catalog.jsonb_array_elements(p_documents) AS d (value)
                                 WHERE d.value #>> '{event,change_id}' = p_violation ->> 'change_id' OR p_result #>> '{request,events}' IS NOT NULL AND d.value ->> 'seq' = p_violation ->> 'change_id');
    -- Rows that were there stand for the past of a state, not for events.
    v_pins constant boolean := p_violation ->> 'kind' NOT IN ('requires', 'forbids', 'rate', 'deadline', 'projection', 'error');
    v_model constant text := p_result #>> '{request,model}';
    v_until constant timestamptz := CASE WHEN p_violation ->> 'kind' = 'deadline' THEN coalesce(nullif((p_result #>> '{request,until}')::timestamptz, 'infinity'), pg_catalog.now()) ELSE 'infinity' END;
    v_length integer := 1;
    v_documents jsonb;
BEGIN
    -- Of a sum over many rows what happened since the last check point is enough; few rows are told one by one.
    IF v_count > 50 AND p_violation ->> 'check_at' IN ('event', 'statement', 'commit') THEN
        v_documents := threadline.pinned_events(v_model, p_violation, (
            SELECT pg_catalog.jsonb_agg(d.value ORDER BY d.n) FROM pg_catalog.jsonb_array_elements(p_documents) WITH ORDINALITY AS d (value, n)
            WHERE CASE p_violation ->> 'check_at' WHEN 'event' THEN d.n = v_count
                       WHEN 'statement' THEN d.value #> '{event,statement}' = p_documents #> '{-1,event,statement}' AND d.value #> '{event,transaction}' = p_documents #> '{-1,event,transaction}'
                       ELSE d.value #> '{event,transaction}' = p_documents #> '{-1,event,transaction}' END));
        IF v_documents IS NOT NULL AND threadline.trial_shows(threadline.trial_run(v_model, p_violation, v_documents, v_until), v_target, p_violation -> 'state_after') THEN
            RETURN v_documents;
        END IF;
    END IF;
    LOOP
        v_documents := CASE WHEN v_length >= v_count THEN p_documents ELSE (
            SELECT pg_catalog.jsonb_agg(d.document ORDER BY d.seq)
            FROM (
                SELECT (d.value ->> 'seq')::bigint AS seq, d.value AS document
                FROM pg_catalog.jsonb_array_elements(p_documents) WITH ORDINALITY AS d (value, n) WHERE d.n > v_count - v_length
                UNION ALL
                SELECT p.seq, p.document
                FROM (
                    SELECT DISTINCT ON (d.value #>> '{event,table}', d.value #>> '{event,key}') (d.value ->> 'seq')::bigint AS seq, d.value #>> '{event,op}' AS op,
                           d.value || pg_catalog.jsonb_build_object('event', (d.value -> 'event') - '{old,old_key,old_exact,change_id}'::text[]
                                                                             || '{"op": "snapshot", "transaction": 0, "statement": 0}') AS document
                    FROM pg_catalog.jsonb_array_elements(p_documents) WITH ORDINALITY AS d (value, n)
                    WHERE d.n <= v_count - v_length AND v_pins
                    ORDER BY d.value #>> '{event,table}', d.value #>> '{event,key}', (d.value ->> 'seq')::bigint DESC
                ) p
                WHERE p.op NOT IN ('delete', 'truncate')
                  -- A row that went on under another key is pinned there.
                  AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(p_documents) WITH ORDINALITY AS o (value, n)
                                  WHERE o.n <= v_count - v_length AND o.value #>> '{event,table}' = p.document #>> '{event,table}'
                                    AND o.value #>> '{event,old_key}' = p.document #>> '{event,key}' AND (o.value ->> 'seq')::bigint > p.seq)
            ) d) END;
        EXIT WHEN v_length >= v_count OR threadline.trial_shows(threadline.trial_run(v_model, p_violation, v_documents, v_until), v_target, p_violation -> 'state_after');
        v_length := least(v_count, CASE WHEN v_length < 8 THEN v_length + 1 ELSE v_length * 3 / 2 END);
    END LOOP;
    RETURN v_documents;
END
$$;

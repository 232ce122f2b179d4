-- Which transactions an invariant broke for: those without which it would hold, and how likely each is to be the one at fault.

-- What is known of the transactions that events are of: number, whose, and what they did to the key.
CREATE FUNCTION threadline.transactions_of_events(p_documents jsonb)
RETURNS TABLE (n bigint, transaction_id uuid, committed_at timestamptz, started_at timestamptz, actor_ref jsonb, action text, request_id text, correlation_id text, job_id text, source text, change_count bigint, effect jsonb, last_seq bigint)
LANGUAGE sql STABLE
AS $$
    SELECT e.n, e.transaction_id, e.at, x.started_at, x.actor_ref, a.name, x.request_id, x.correlation_id, x.job_id, coalesce(x.source, x.application_name), x.change_count, e.effect, e.last_seq
    FROM (
        SELECT (d.value #>> '{event,transaction}')::bigint AS n, (pg_catalog.min(d.value #>> '{event,transaction_id}'))::uuid AS transaction_id, pg_catalog.min((d.value ->> 'at')::timestamptz) AS at,
               pg_catalog.max((d.value ->> 'seq')::bigint) AS last_seq,
               -- By which amounts it changed numbers, and what it set otherwise; not which row it was, nor when.
               pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('op', d.value #> '{event,op}', 'table', d.value #> '{event,table}', 'changes', (
                   SELECT pg_catalog.jsonb_object_agg(c.name, CASE WHEN pg_catalog.jsonb_typeof(f.new) = 'number' AND pg_catalog.jsonb_typeof(f.old) = 'number'
                                                                   THEN pg_catalog.to_jsonb((f.new #>> '{}')::numeric - (f.old #>> '{}')::numeric) ELSE coalesce(f.new, 'null') END)
                   FROM pg_catalog.jsonb_object_keys(coalesce(d.value #> '{event,new}', '{}')) AS c (name)
                   CROSS JOIN LATERAL (SELECT d.value #> ARRAY['event', 'new', c.name] AS new, d.value #> ARRAY['event', 'old', c.name] AS old) f
                   WHERE f.new IS DISTINCT FROM f.old AND c.name <> ALL (coalesce(k.names, '{}')) AND f.new #>> '{}' !~ '^\d{4}-\d\d-\d\d[T ]')) ORDER BY (d.value ->> 'seq')::bigint) AS effect
        FROM pg_catalog.jsonb_array_elements(p_documents) AS d (value)
        LEFT JOIN LATERAL (SELECT t.key_columns::text[] AS names FROM threadline.readable_table t WHERE t.table_schema || '.' || t.table_name = d.value #>> '{event,table}' LIMIT 1) k ON true
        GROUP BY 1
    ) e
    LEFT JOIN threadline.readable_transaction x ON x.id = e.transaction_id
    LEFT JOIN threadline.readable_action a ON a.id = x.action_id
$$;

-- How suspicious each transaction is beside the others of the key, and why.
CREATE FUNCTION threadline.transaction_suspicions(p_documents jsonb, p_breaker bigint)
RETURNS TABLE (n bigint, score numeric, reasons text[])
LANGUAGE sql STABLE
AS $$
    WITH known AS MATERIALIZED (
        SELECT t.*, coalesce(t.action, t.source) AS label,
               (SELECT pg_catalog.sum(pg_catalog.sign((c.value #>> '{}')::numeric)) FROM pg_catalog.jsonb_array_elements(t.effect) AS e (value), pg_catalog.jsonb_each(pg_catalog.jsonb_strip_nulls(e.value) -> 'changes') AS c
                WHERE pg_catalog.jsonb_typeof(c.value) = 'number') AS direction
        FROM threadline.transactions_of_events(p_documents) t
    )
    SELECT k.n, pg_catalog.sum(r.score), pg_catalog.array_agg(r.reason ORDER BY r.score DESC) FILTER (WHERE r.reason IS NOT NULL)
    FROM known k
    CROSS JOIN LATERAL (
        SELECT 0::numeric AS score, NULL::text AS reason
        UNION ALL
        SELECT 2, 'the invariant turned false with it' WHERE k.n = p_breaker
        UNION ALL
        SELECT 5, 'it did the same again for a request that had done it before'
        WHERE EXISTS (SELECT FROM known o WHERE o.n < k.n AND o.effect = k.effect
                        AND (o.request_id = k.request_id OR o.correlation_id = k.correlation_id OR o.job_id = k.job_id AND o.request_id IS NOT DISTINCT FROM k.request_id AND o.actor_ref IS NOT DISTINCT FROM k.actor_ref))
        UNION ALL
        SELECT 1, 'it did the same as the one before it'
        WHERE EXISTS (SELECT FROM known o WHERE o.n < k.n AND o.effect = k.effect AND NOT EXISTS (SELECT FROM known b WHERE b.n > o.n AND b.n < k.n))
        UNION ALL
        SELECT 4, pg_catalog.format('it went the other way than every other %s', k.label)
        FROM (SELECT count(*) AS others, pg_catalog.min(o.direction) AS least, pg_catalog.max(o.direction) AS most FROM known o WHERE o.label = k.label AND o.n <> k.n AND o.direction <> 0) g
        WHERE g.others >= 2 AND k.direction <> 0 AND (g.least > 0 AND k.direction < 0 OR g.most < 0 AND k.direction > 0)
        UNION ALL
        SELECT 3, 'it began before the change that it came after was committed, and overwrote it'
        WHERE EXISTS (SELECT FROM known o WHERE o.n < k.n AND o.committed_at > k.started_at AND o.transaction_id <> k.transaction_id)
        UNION ALL
        SELECT 3, pg_catalog.format('it made %s changes, every other %s %s', k.change_count, k.label, g.most)
        FROM (SELECT count(*) AS others, pg_catalog.min(o.change_count) AS least, pg_catalog.max(o.change_count) AS most FROM known o WHERE o.label = k.label AND o.n <> k.n) g
        WHERE g.others >= 2 AND g.least = g.most AND k.change_count < g.least
        UNION ALL
        SELECT 2, 'no other change of the key was made for the same actor'
        WHERE k.actor_ref IS NOT NULL AND (SELECT count(*) FROM known o WHERE o.n <> k.n) >= 3
          AND NOT EXISTS (SELECT FROM known o WHERE o.n <> k.n AND o.actor_ref = k.actor_ref)
          AND EXISTS (SELECT FROM known o WHERE o.n <> k.n GROUP BY o.actor_ref HAVING count(*) >= 2)
        UNION ALL
        SELECT 1.5, pg_catalog.format('the only %s among them', k.label)
        WHERE k.label IS NOT NULL AND (SELECT count(*) FROM known o WHERE o.n <> k.n) >= 3 AND NOT EXISTS (SELECT FROM known o WHERE o.n <> k.n AND o.label = k.label)
    ) r
    GROUP BY k.n
$$;

-- Sets of transactions without which the events end without failure: single ones, or pairs where no single one does.
CREATE FUNCTION threadline.replay_but_for(p_result jsonb, p_violation jsonb, p_documents jsonb) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    -- So many of the last are tried.
    v_most constant integer := 60;
    v_model constant text := p_result #>> '{request,model}';
    v_last constant jsonb := p_documents -> -1;
    v_target constant bigint := (v_last ->> 'seq')::bigint;
    v_until constant timestamptz := CASE WHEN p_violation ->> 'kind' = 'deadline' THEN coalesce(nullif((p_result #>> '{request,until}')::timestamptz, 'infinity'), pg_catalog.now()) ELSE 'infinity' END;
    v_candidates bigint[];
    v_sets jsonb := '[]';
    v_first bigint;
    v_second bigint;
    v_tried integer := 0;
BEGIN
    v_candidates := ARRAY(
        SELECT s.n FROM (SELECT DISTINCT (d.value #>> '{event,transaction}')::bigint AS n FROM pg_catalog.jsonb_array_elements(p_documents) AS d (value) WHERE d.value #>> '{event,op}' NOT IN ('snapshot', 'pin') OR d.value #>> '{event,op}' IS NULL
                         ORDER BY 1 DESC LIMIT v_most) c
        JOIN threadline.transaction_suspicions(p_documents, (v_last #>> '{event,transaction}')::bigint) s ON s.n = c.n
        ORDER BY s.score DESC, s.n DESC);
    FOREACH v_first IN ARRAY v_candidates LOOP
        v_tried := v_tried + 1;
        IF NOT threadline.trial_fails(threadline.replay_trial(v_model, p_violation, threadline.events_without(p_documents, ARRAY[v_first]), v_until), v_target) THEN
            v_sets := v_sets || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array(v_first));
        END IF;
    END LOOP;
    IF v_sets = '[]' THEN
        <<pairs>>
        FOREACH v_first IN ARRAY v_candidates[:12] LOOP
            FOREACH v_second IN ARRAY v_candidates[:12] LOOP
                CONTINUE WHEN v_second >= v_first;
                v_tried := v_tried + 1;
                IF NOT threadline.trial_fails(threadline.replay_trial(v_model, p_violation, threadline.events_without(p_documents, ARRAY[v_first, v_second]), v_until), v_target) THEN
                    v_sets := v_sets || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array(v_first, v_second));
                    EXIT pairs WHEN pg_catalog.jsonb_array_length(v_sets) >= 5;
                END IF;
            END LOOP;
        END LOOP;
    END IF;
    RETURN pg_catalog.jsonb_build_object('sets', v_sets, 'tried', v_tried);
END
$$;

CREATE FUNCTION threadline.replay_minimal_set(result jsonb, notion text, violation integer = 1) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    v_violation constant jsonb := threadline.violation_of(replay_minimal_set.result, replay_minimal_set.violation);
    -- So many of the last events of a key are gone through for causes, and the others stand as one state.
    v_most constant integer := 1000;
    v_ids bigint[];
    v_documents jsonb;
    v_found jsonb;
    v_breaker bigint;
BEGIN
    IF replay_minimal_set.notion IS NULL OR replay_minimal_set.notion NOT IN ('reproducer', 'causal_slice', 'but_for') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('there is no minimal set of the notion "%s"', replay_minimal_set.notion),
            HINT = 'Use ''reproducer'' (the fewest events that show the failure), ''causal_slice'' (all events that it depends on) or ''but_for'' (transactions without which there is none).';
    END IF;
    v_ids := threadline.replay_slice(replay_minimal_set.result, v_violation, CASE replay_minimal_set.notion WHEN 'causal_slice' THEN 100000 ELSE v_most END);
    v_documents := threadline.replay_events(replay_minimal_set.result #>> '{request,events}', v_ids);
    v_found := pg_catalog.jsonb_build_object('notion', replay_minimal_set.notion, 'invariant', v_violation -> 'invariant', 'key', v_violation -> 'key', 'change_id', v_violation -> 'change_id', 'fingerprint', v_violation -> 'fingerprint');
    IF replay_minimal_set.notion = 'causal_slice' THEN
        RETURN v_found || pg_catalog.jsonb_build_object('events', v_documents);
    ELSIF replay_minimal_set.notion = 'reproducer' THEN
        RETURN v_found || pg_catalog.jsonb_build_object('events', threadline.replay_reproducer(replay_minimal_set.result, v_violation, v_documents));
    END IF;
    IF pg_catalog.cardinality(v_ids) >= v_most THEN
        v_documents := coalesce(threadline.pinned_events(replay_minimal_set.result #>> '{request,model}', v_violation, v_documents), v_documents);
    END IF;
    v_found := v_found || threadline.replay_but_for(replay_minimal_set.result, v_violation, v_documents);
    v_breaker := (v_documents #>> '{-1,event,transaction}')::bigint;
    RETURN (v_found - 'sets') || pg_catalog.jsonb_build_object('sets', (
        SELECT coalesce(pg_catalog.jsonb_agg(o.entry || pg_catalog.jsonb_build_object('rank', o.rank) ORDER BY o.rank), '[]')
        FROM (
            SELECT pg_catalog.row_number() OVER (ORDER BY pg_catalog.max(u.score) DESC, pg_catalog.max(k.n) DESC) AS rank,
                   pg_catalog.jsonb_build_object('score', pg_catalog.max(u.score), 'transactions', pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                       'id', k.transaction_id, 'committed_at', k.committed_at, 'actor_ref', k.actor_ref, 'action', k.action, 'request_id', k.request_id, 'correlation_id', k.correlation_id,
                       'job_id', k.job_id, 'effect', k.effect, 'reasons', coalesce(u.reasons, '{}'),
                       'seq', CASE WHEN k.transaction_id IS NULL THEN k.last_seq END) ORDER BY k.n)) AS entry
            FROM pg_catalog.jsonb_array_elements(v_found -> 'sets') WITH ORDINALITY AS s (value, no)
            CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(s.value) AS m (n)
            JOIN threadline.transactions_of_events(v_documents) k ON k.n = m.n::bigint
            JOIN threadline.transaction_suspicions(v_documents, v_breaker) u ON u.n = k.n
            GROUP BY s.no
        ) o));
END
$$;
COMMENT ON FUNCTION threadline.replay_minimal_set(jsonb, text, integer) IS
$$What a violation comes from, by one of three notions. result: what replay_check('model') returned; violation: its number there. JSON: notion, invariant, key, change_id, fingerprint and
causal_slice: events, every change before and at the failure that the violated expression depends on (those of its key), in commit order, as [{"seq", "at", "event"}], the shape that replay_check(…, events => …) takes; reproducer: the shortest end of these that shows the same failure with the same state, the rows of before standing for the rest as snapshots; but_for: sets, the transactions without which the slice ends without the failure (pairs where no single one does), the most suspicious first, each with rank, score and reasons: that it is the one that broke it, repeated a request, went the other way than its like, overlapped with the change before, made fewer changes than its like, or was another's than the rest. What later transactions did to the same rows is carried on without theirs: a number by the difference. Of the transactions of the slice the last 60 are tried.
The score orders; it is no probability. Errors: 22023 unknown notion, no result of a model, or no such violation.$$;

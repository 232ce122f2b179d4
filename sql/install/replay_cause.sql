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

-- All changes that transactions made, whatever row they are of, for comparing what goes together in them.
CREATE FUNCTION threadline.changes_of_transactions(p_ids uuid[]) RETURNS TABLE (transaction_id uuid, change_id bigint, of_table text, op smallint, old_image jsonb, new_image jsonb)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    -- Known before the query is planned, so that it looks them up.
    v_ids constant bigint[] := ARRAY(
        SELECT i.id
        FROM threadline.readable_transaction x
        CROSS JOIN LATERAL pg_catalog.unnest(x.change_ids) AS r (ids)
        CROSS JOIN LATERAL pg_catalog.generate_series(pg_catalog.lower(r.ids), least(pg_catalog.upper(r.ids), pg_catalog.lower(r.ids) + 500) - 1) AS i (id)
        WHERE x.id = ANY (p_ids));
BEGIN
    RETURN QUERY
    SELECT c.transaction_id, c.id, c.table_schema || '.' || c.table_name, c.op, c.old_image, c.new_image
    FROM threadline.readable_change c
    WHERE c.id = ANY (v_ids) AND c.transaction_id = ANY (p_ids) AND c.op <> 2;
END
$$;

-- The numbers in changes: by how much an update changed a column (is_delta), and what was set.
CREATE FUNCTION threadline.numbers_of_changes(p_ids uuid[]) RETURNS TABLE (transaction_id uuid, change_id bigint, of_table text, name text, is_delta boolean, number numeric)
LANGUAGE sql STABLE
AS $$
    SELECT c.transaction_id, c.change_id, c.of_table, f.name, f.is_delta, f.number
    FROM threadline.changes_of_transactions(p_ids) c
    CROSS JOIN LATERAL (
        SELECT v.key AS name, k.is_delta,
               CASE WHEN pg_catalog.jsonb_typeof(v.value) <> 'number' THEN NULL
                    WHEN NOT k.is_delta THEN (v.value #>> '{}')::numeric
                    WHEN pg_catalog.jsonb_typeof(c.old_image -> v.key) = 'number' THEN (v.value #>> '{}')::numeric - (c.old_image ->> v.key)::numeric END AS number
        FROM pg_catalog.jsonb_each(c.new_image) v CROSS JOIN (VALUES (false), (true)) AS k (is_delta)
        WHERE CASE c.op WHEN 4 THEN NOT k.is_delta WHEN 5 THEN c.old_image ? v.key ELSE false END
    ) f
    WHERE f.number IS NOT NULL
$$;

-- How suspicious each transaction is beside the others of the key, and why; and by how much more it would have changed numbers had it
-- done as its like. Only what the record says of them counts.
CREATE FUNCTION threadline.transaction_suspicions(p_documents jsonb, p_breaker bigint, p_kind text)
RETURNS TABLE (n bigint, score numeric, reasons text[], repairs jsonb)
LANGUAGE sql STABLE
-- To compile it takes a hundred times as long as it does.
SET jit = off
AS $$
    WITH told AS MATERIALIZED (
        SELECT t.*, coalesce(t.action, t.source) AS label FROM threadline.transactions_of_events(p_documents) t
    ), part AS MATERIALIZED (
        SELECT t.n, t.label, e.no, e.value ->> 'table' AS of_table, e.value ->> 'op' AS op, c.key AS name, c.value
        FROM told t CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(t.effect) WITH ORDINALITY AS e (value, no) CROSS JOIN LATERAL pg_catalog.jsonb_each(nullif(e.value -> 'changes', 'null')) AS c
    ), numbered AS (
        -- Columns that number things: another in nearly every row. They do not tell one effect from another.
        SELECT p.of_table, p.name FROM part p WHERE p.op = 'insert' GROUP BY 1, 2 HAVING count(*) >= 4 AND count(DISTINCT p.value) >= 0.8 * count(*)
    ), place AS MATERIALIZED (
        SELECT (d.value #>> '{event,transaction}')::bigint AS n, (d.value #>> '{event,change_id}')::bigint AS change_id, d.value #>> '{event,table}' AS of_table,
               coalesce(d.value #>> '{event,old_key}', d.value #>> '{event,key}') AS key, d.value #>> '{event,op}' AS op, d.value #> '{event,new}' AS new, d.value #> '{event,old}' AS old
        FROM pg_catalog.jsonb_array_elements(p_documents) AS d (value)
    ), number AS MATERIALIZED (
        SELECT * FROM threadline.numbers_of_changes(ARRAY(SELECT t.transaction_id FROM told t WHERE t.transaction_id IS NOT NULL))
    ), moved AS MATERIALIZED (
        -- Whether the amount by which a number was changed is found elsewhere in what the transaction did.
        SELECT p.n, p.of_table, p.key, m.name, m.number,
               EXISTS (SELECT FROM number o WHERE o.transaction_id = m.transaction_id AND pg_catalog.abs(o.number) = pg_catalog.abs(m.number)
                       AND CASE WHEN o.is_delta THEN o.change_id <> m.change_id AND o.name = m.name ELSE (o.change_id, o.name) <> (m.change_id, m.name) END) AS is_matched,
               EXISTS (SELECT FROM number v JOIN number o ON o.transaction_id = v.transaction_id AND NOT o.is_delta AND (o.change_id, o.name) <> (v.change_id, v.name) AND pg_catalog.abs(o.number) = pg_catalog.abs(v.number)
                       WHERE v.change_id = m.change_id AND v.name = m.name AND NOT v.is_delta) AS is_set
        FROM place p JOIN number m ON m.change_id = p.change_id AND m.is_delta AND m.number <> 0
    ), moving AS MATERIALIZED (
        -- Numbers that are moved by amounts, and those that are set to something, whose difference says nothing.
        SELECT m.of_table, m.name, count(*) FILTER (WHERE m.is_matched) >= 0.5 * count(*) AND count(*) FILTER (WHERE m.is_matched) > count(*) FILTER (WHERE m.is_set) AS moves FROM moved m GROUP BY 1, 2
    ), known AS MATERIALIZED (
        SELECT t.*, (SELECT pg_catalog.jsonb_agg(e.one ORDER BY e.no) FROM (
                         SELECT p.no, pg_catalog.jsonb_build_array(p.of_table, p.op, pg_catalog.jsonb_object_agg(p.name, p.value)) AS one FROM part p
                         WHERE p.n = t.n AND (p.of_table, p.name) NOT IN (SELECT u.of_table, u.name FROM numbered u) AND (p.op, p.of_table, p.name) NOT IN (SELECT 'update', u.of_table, u.name FROM moving u WHERE NOT u.moves) GROUP BY p.no, p.of_table, p.op) e) AS deed
        FROM told t
    ), direction AS MATERIALIZED (
        SELECT p.n, p.label, p.of_table, p.op, p.name, pg_catalog.sign(pg_catalog.sum((p.value #>> '{}')::numeric)) AS sign
        FROM (SELECT * FROM part WHERE pg_catalog.jsonb_typeof(value) = 'number' OFFSET 0) p WHERE (p.op, p.of_table, p.name) NOT IN (SELECT 'update', u.of_table, u.name FROM moving u WHERE NOT u.moves) GROUP BY 1, 2, 3, 4, 5
    ), overlap AS MATERIALIZED (
        SELECT DISTINCT k.n, o.n AS earlier, p.of_table, p.key
        FROM known k JOIN known o ON o.n < k.n AND o.committed_at > k.started_at AND o.transaction_id <> k.transaction_id
        JOIN place p ON p.n = k.n JOIN place q ON q.n = o.n AND q.of_table = p.of_table AND q.key = p.key
    ), recent AS MATERIALIZED (
        -- What was done in the time of the slice, and who for.
        SELECT x.id, x.actor_ref
        FROM threadline.readable_transaction x
        WHERE x.committed_at BETWEEN (SELECT pg_catalog.min(k.committed_at) FROM known k) - interval '1 hour' AND (SELECT pg_catalog.max(k.committed_at) FROM known k) + interval '1 hour'
        ORDER BY x.committed_at DESC LIMIT 1000
    ), said AS MATERIALIZED (
        SELECT r.actor_ref, v.key AS name, v.value, count(DISTINCT c.transaction_id) AS times
        FROM threadline.changes_of_transactions(ARRAY(SELECT r.id FROM recent r WHERE r.actor_ref IS NOT NULL)) c
        JOIN recent r ON r.id = c.transaction_id
        CROSS JOIN LATERAL pg_catalog.jsonb_each(c.new_image) AS v
        WHERE c.op IN (4, 5)
        GROUP BY 1, 2, 3
    ), habit AS MATERIALIZED (
        SELECT s.actor_ref, s.name, count(*) AS values, pg_catalog.sum(s.times) AS times, (pg_catalog.array_agg(s.value ORDER BY s.times DESC))[1] AS value, pg_catalog.max(s.times) AS usual
        FROM said s GROUP BY 1, 2
    ), bound AS MATERIALIZED (
        -- Columns that say the same in all that is done for one actor, and not the same for all.
        SELECT h.name FROM habit h WHERE h.times >= 2 GROUP BY 1
        HAVING count(*) FILTER (WHERE h.values = 1) >= greatest(3, 0.75 * count(*)) AND count(DISTINCT h.value) FILTER (WHERE h.values = 1) >= 2
    )    , turned AS MATERIALIZED (
        -- Numbers that went the other way than those of all its like.
        SELECT d.*
        FROM direction d
        CROSS JOIN LATERAL (SELECT count(*) AS others, pg_catalog.min(o.sign) AS least, pg_catalog.max(o.sign) AS most
                            FROM direction o WHERE (o.label, o.of_table, o.op, o.name) = (d.label, d.of_table, d.op, d.name) AND o.n <> d.n AND o.sign <> 0) g
        WHERE g.others >= 2 AND g.least = g.most AND d.sign = -g.least
    ), lost AS MATERIALIZED (
        -- Numbers that were set as if a change that was committed meanwhile had not been.
        SELECT m.n, m.of_table, m.key, m.name, e.number
        FROM overlap v
        JOIN moved m ON m.n = v.n AND (m.of_table, m.key) = (v.of_table, v.key) AND NOT m.is_matched
        JOIN moved e ON e.n = v.earlier AND (e.of_table, e.key, e.name) = (m.of_table, m.key, m.name)
        JOIN known k ON k.n = m.n
        WHERE EXISTS (SELECT FROM number o WHERE o.transaction_id = k.transaction_id AND o.name <> m.name AND o.number <> 0 AND pg_catalog.abs(o.number) = pg_catalog.abs(m.number + e.number))
    )
    SELECT k.n, pg_catalog.sum(r.score), pg_catalog.array_agg(r.reason ORDER BY r.score DESC) FILTER (WHERE r.reason IS NOT NULL), (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('table', f.of_table, 'key', f.key, 'column', f.name, 'by', f.by))
        FROM (
            SELECT l.of_table, l.key, l.name, l.number AS by FROM lost l WHERE l.n = k.n
            UNION ALL
            SELECT p.of_table, p.key, d.name, CASE WHEN pg_catalog.jsonb_typeof(p.new -> d.name) = 'number'
                                                   THEN -2 * ((p.new ->> d.name)::numeric - CASE WHEN pg_catalog.jsonb_typeof(p.old -> d.name) = 'number' THEN (p.old ->> d.name)::numeric ELSE 0 END) END
            FROM turned d JOIN place p ON p.n = d.n AND (p.of_table, p.op) = (d.of_table, d.op) WHERE d.n = k.n
        ) f
        WHERE f.by <> 0)
    FROM known k
    CROSS JOIN LATERAL (
        SELECT 0::numeric AS score, NULL::text AS reason
        UNION ALL
        -- What is judged by itself is mostly its own doing; a sum goes wrong by what was wrong before.
        SELECT CASE WHEN p_kind IN ('transition', 'requires', 'forbids', 'rate', 'monotone', 'unique', 'references', 'deadline') THEN 3 ELSE 2 END, 'the invariant turned false with it' WHERE k.n = p_breaker
        UNION ALL
        SELECT 5, 'it did the same again for a request that had done it before'
        WHERE EXISTS (SELECT FROM known o WHERE o.n < k.n AND o.deed = k.deed
                        AND (o.request_id = k.request_id OR o.correlation_id = k.correlation_id OR o.job_id = k.job_id AND o.request_id IS NOT DISTINCT FROM k.request_id AND o.actor_ref IS NOT DISTINCT FROM k.actor_ref))
        UNION ALL
        SELECT 0.5, 'it did the same as the one before it'
        WHERE EXISTS (SELECT FROM known o WHERE o.n < k.n AND o.deed = k.deed AND NOT EXISTS (SELECT FROM known b WHERE b.n > o.n AND b.n < k.n))
        UNION ALL
        (SELECT 4, pg_catalog.format('its %s went the other way than that of every other %s', d.name, k.label) FROM turned d WHERE d.n = k.n LIMIT 1)
        UNION ALL
        (SELECT 5, pg_catalog.format('it began before a change of the same row was committed, and changed %s as if that had not been', l.name) FROM lost l WHERE l.n = k.n LIMIT 1)
        UNION ALL
        SELECT 1, 'it began before a change of the same row that it came after was committed' WHERE EXISTS (SELECT FROM overlap v WHERE v.n = k.n)
        UNION ALL
        (SELECT 3, pg_catalog.format('it changed %s by %s, which is nowhere else in what it did, as it is in what %s of %s others did', m.name, m.number, g.matched, g.others)
         FROM moved m
         CROSS JOIN LATERAL (SELECT count(*) AS others, count(*) FILTER (WHERE o.is_matched) AS matched FROM moved o WHERE (o.of_table, o.name) = (m.of_table, m.name) AND o.n <> m.n) g
         WHERE m.n = k.n AND NOT m.is_matched AND g.others >= 3 AND g.matched >= 0.9 * g.others LIMIT 1)
        UNION ALL
        SELECT 3, pg_catalog.format('it made %s changes, of the other %s %s of %s made %s', k.change_count, k.label, g.times, g.others, g.usual)
        FROM (SELECT o.change_count AS usual, count(*) AS times, pg_catalog.sum(count(*)) OVER () AS others FROM known o WHERE o.label = k.label AND o.n <> k.n GROUP BY 1 ORDER BY 2 DESC LIMIT 1) g
        WHERE g.others >= 2 AND g.times >= 0.8 * g.others AND k.change_count < g.usual
        UNION ALL
        (SELECT 4, pg_catalog.format('%s is %s in it, and %s in %s other transactions for its actor, and others keep to theirs as well', h.name, p.new -> h.name, h.value, h.usual)
         FROM place p
         JOIN habit h ON h.actor_ref = k.actor_ref AND p.new ? h.name AND p.new -> h.name <> h.value
         JOIN bound b ON b.name = h.name
         WHERE p.n = k.n AND p.op IN ('insert', 'update') AND h.usual >= 2 AND h.usual > 2 * (h.times - h.usual)
         LIMIT 1)
        UNION ALL
        SELECT 1.5, 'no other change of the key was made for the same actor'
        WHERE k.actor_ref IS NOT NULL AND (SELECT count(*) FROM known o WHERE o.n <> k.n) >= 3
          AND NOT EXISTS (SELECT FROM known o WHERE o.n <> k.n AND o.actor_ref = k.actor_ref)
          AND EXISTS (SELECT FROM known o WHERE o.n <> k.n GROUP BY o.actor_ref HAVING count(*) >= 2)
        UNION ALL
        SELECT 0.5, pg_catalog.format('the only %s among them', k.label)
        WHERE k.label IS NOT NULL AND (SELECT count(*) FROM known o WHERE o.n <> k.n) >= 3 AND NOT EXISTS (SELECT FROM known o WHERE o.n <> k.n AND o.label = k.label)
    ) r
    GROUP BY k.n
$$;

-- Sets of transactions without which the events end without failure: single ones, or pairs where no single one does.
CREATE FUNCTION threadline.but_for_sets(p_result jsonb, p_violation jsonb, p_documents jsonb) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    -- So many of the last are tried.
    v_most constant integer := 100;
    v_model constant text := p_result #>> '{request,model}';
    v_last constant jsonb := p_documents -> -1;
    v_target constant bigint := (v_last ->> 'seq')::bigint;
    v_until constant timestamptz := CASE WHEN p_violation ->> 'kind' = 'deadline' THEN coalesce(nullif((p_result #>> '{request,until}')::timestamptz, 'infinity'), pg_catalog.now()) ELSE 'infinity' END;
    v_candidates bigint[];
    v_sets jsonb := '[]';
    v_first bigint;
    v_second bigint;
    v_tried integer := 0;
    v_righted jsonb := '{}';
    v_repairs jsonb;
BEGIN
    SELECT pg_catalog.array_agg(s.n ORDER BY s.score DESC, s.n DESC), coalesce(pg_catalog.jsonb_object_agg(s.n, s.repairs) FILTER (WHERE s.repairs IS NOT NULL), '{}') INTO v_candidates, v_repairs
    FROM (SELECT DISTINCT (d.value #>> '{event,transaction}')::bigint AS n FROM pg_catalog.jsonb_array_elements(p_documents) AS d (value) WHERE coalesce(d.value #>> '{event,op}', '') NOT IN ('snapshot', 'pin')
                         ORDER BY 1 DESC LIMIT v_most) c
        JOIN threadline.transaction_suspicions(p_documents, (v_last #>> '{event,transaction}')::bigint, p_violation ->> 'kind') s ON s.n = c.n;
    FOREACH v_first IN ARRAY coalesce(v_candidates, '{}') LOOP
        -- Those left are the least suspicious.
        EXIT WHEN v_tried >= 40 AND v_sets <> '[]';
        v_tried := v_tried + 1;
        IF NOT threadline.trial_fails(threadline.trial_run(v_model, p_violation, threadline.events_without(p_documents, ARRAY[v_first]), v_until), v_target, p_violation ->> 'kind') THEN
            v_sets := v_sets || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array(v_first));
        ELSIF v_repairs ? v_first::text THEN
            -- What came after may build on it, so that there would be a failure without it as well; but not had it been right.
            v_tried := v_tried + 1;
            IF NOT threadline.trial_fails(threadline.trial_run(v_model, p_violation, threadline.events_adjusted(p_documents, v_first, v_repairs -> v_first::text), v_until), v_target, p_violation ->> 'kind') THEN
                v_sets := v_sets || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array(v_first));
                v_righted := v_righted || pg_catalog.jsonb_build_object(v_first::text, v_repairs -> v_first::text);
            END IF;
        END IF;
    END LOOP;
    IF v_sets = '[]' THEN
        <<pairs>>
        FOREACH v_first IN ARRAY v_candidates[:12] LOOP
            FOREACH v_second IN ARRAY v_candidates[:12] LOOP
                CONTINUE WHEN v_second >= v_first;
                v_tried := v_tried + 1;
                IF NOT threadline.trial_fails(threadline.trial_run(v_model, p_violation, threadline.events_without(p_documents, ARRAY[v_first, v_second]), v_until), v_target, p_violation ->> 'kind') THEN
                    v_sets := v_sets || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array(v_first, v_second));
                    EXIT pairs WHEN pg_catalog.jsonb_array_length(v_sets) >= 5;
                END IF;
            END LOOP;
        END LOOP;
    END IF;
    RETURN pg_catalog.jsonb_build_object('sets', v_sets, 'tried', v_tried, 'righted', v_righted);
END
$$;

CREATE FUNCTION threadline.replay_minimal_set(result jsonb, notion text, violation integer = 1) RETURNS jsonb
LANGUAGE plpgsql SET jit = off
AS $$
DECLARE
    v_violation constant jsonb := threadline.violation_of(replay_minimal_set.result, replay_minimal_set.violation);
    -- So many of the last events of a key are gone through for causes, and the others stand as one state.
    v_most constant integer := 200;
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
    v_ids := threadline.violation_slice(replay_minimal_set.result, v_violation, CASE replay_minimal_set.notion WHEN 'causal_slice' THEN 100000 ELSE v_most END);
    v_documents := threadline.events_of_changes(replay_minimal_set.result #>> '{request,events}', v_ids);
    v_found := pg_catalog.jsonb_build_object('notion', replay_minimal_set.notion, 'invariant', v_violation -> 'invariant', 'key', v_violation -> 'key', 'change_id', v_violation -> 'change_id', 'fingerprint', v_violation -> 'fingerprint');
    IF replay_minimal_set.notion = 'causal_slice' THEN
        RETURN v_found || pg_catalog.jsonb_build_object('events', v_documents);
    ELSIF replay_minimal_set.notion = 'reproducer' THEN
        RETURN v_found || pg_catalog.jsonb_build_object('events', threadline.shortest_events(replay_minimal_set.result, v_violation, v_documents));
    END IF;
    IF pg_catalog.cardinality(v_ids) >= v_most THEN
        v_documents := coalesce(threadline.pinned_events(replay_minimal_set.result #>> '{request,model}', v_violation, v_documents), v_documents);
    END IF;
    v_found := v_found || threadline.but_for_sets(replay_minimal_set.result, v_violation, v_documents);
    v_breaker := (v_documents #>> '{-1,event,transaction}')::bigint;
    RETURN (v_found - '{sets,righted}'::text[]) || pg_catalog.jsonb_build_object('sets', (
        SELECT coalesce(pg_catalog.jsonb_agg(o.entry || pg_catalog.jsonb_build_object('rank', o.rank) ORDER BY o.rank), '[]')
        FROM (
            SELECT pg_catalog.row_number() OVER (ORDER BY pg_catalog.max(u.score) DESC, pg_catalog.max(k.n) DESC) AS rank,
                   pg_catalog.jsonb_build_object('score', pg_catalog.max(u.score), 'remedy', CASE WHEN pg_catalog.bool_or(v_found -> 'righted' ? m.n) THEN 'put right' ELSE 'left out' END, 'transactions', pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                       'id', k.transaction_id, 'committed_at', k.committed_at, 'actor_ref', k.actor_ref, 'action', k.action, 'request_id', k.request_id, 'correlation_id', k.correlation_id,
                       'job_id', k.job_id, 'effect', k.effect, 'reasons', coalesce(u.reasons, '{}'), 'repairs', v_found -> 'righted' -> m.n,
                       'seq', CASE WHEN k.transaction_id IS NULL THEN k.last_seq END) ORDER BY k.n)) AS entry
            FROM pg_catalog.jsonb_array_elements(v_found -> 'sets') WITH ORDINALITY AS s (value, no)
            CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(s.value) AS m (n)
            JOIN threadline.transactions_of_events(v_documents) k ON k.n = m.n::bigint
            JOIN threadline.transaction_suspicions(v_documents, v_breaker, v_violation ->> 'kind') u ON u.n = k.n
            GROUP BY s.no
        ) o));
END
$$;
COMMENT ON FUNCTION threadline.replay_minimal_set(jsonb, text, integer) IS
$$What a violation comes from, by one of three notions. result: what replay_check('model') returned; violation: its number there. JSON: notion, invariant, key, change_id, fingerprint and
causal_slice: events, every change before and at the failure that the violated expression depends on (those of its key), in commit order, as [{"seq", "at", "event"}], the shape that replay_check(…, events => …) takes; reproducer: the shortest end of these that shows the same failure with the same state, the rows of before standing for the rest as snapshots; but_for: sets, the transactions without which the slice ends without the failure (pairs where no single one does), the most suspicious first, each with rank, score, remedy and reasons. remedy: left out, there is no failure without them; put right, there is none had the numbers of one been as its repairs say (the other sign, as its like have; or on top of a change that it overwrote), for later changes may build on it. reasons: that it is the one that broke it, repeated a request, went the other way than its like, overlapped with the change before, made fewer changes than its like, changed a number by what is nowhere else in it, said otherwise than its actor's others, or was another's than the rest. What later transactions did to the same rows is carried on without theirs: a number by the difference. Of the transactions of the slice the last 100 are tried.
The score orders; it is no probability. Errors: 22023 unknown notion, no result of a model, or no such violation.$$;

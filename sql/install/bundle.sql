-- Everything about a transaction, or all those that something was done by, in one document.

-- The neighbours of a change in its row's history are read by index; inside the transaction, whose order ids do
-- not give, they are found by sorting. A row that arrived from another key has its past under that key, and one
-- that moved on has its future under the next. Identical rows of a table without a key share their changes: before a change
-- stands the newest that left such a row, after it the first at which one of them left.
CREATE FUNCTION threadline.previous_row_change(p_change threadline.readable_change) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_row_key bigint := p_change.row_key;
    v_key text := coalesce(p_change.old_key, p_change.key);
    v_counted constant boolean := cardinality(p_change.key_columns) = 0;
    v_bounds record;
    v_id bigint;
BEGIN
    IF v_counted AND p_change.op IN (3, 4) THEN
        RETURN NULL;
    END IF;
    IF p_change.old_key IS NOT NULL THEN
        v_row_key := threadline.row_key_of(
            (SELECT t.relation FROM threadline.readable_table t WHERE t.table_id = p_change.table_id), p_change.key_columns, v_key);
    END IF;
    SELECT lower(x.change_ids) AS first_id, upper(x.change_ids) AS end_id INTO v_bounds
    FROM threadline.readable_transaction x WHERE x.id = p_change.transaction_id;
    SELECT c.id INTO v_id
    FROM threadline.readable_change c
    WHERE c.table_id = p_change.table_id AND c.row_key = v_row_key AND c.key = v_key
      AND c.id >= v_bounds.first_id AND c.id < v_bounds.end_id AND c.transaction_id = p_change.transaction_id
      AND c.op <> 2
      AND (c.statement_no < p_change.statement_no
           OR p_change.old_key IS NULL AND c.statement_no = p_change.statement_no AND (c.op, c.id) < (p_change.op, p_change.id))
      AND (c.op >= 3 OR NOT v_counted)
    ORDER BY c.statement_no DESC, c.op DESC, c.id DESC
    LIMIT 1;
    IF v_id IS NOT NULL THEN
        RETURN v_id;
    END IF;
    SELECT c.id, c.transaction_id, lower(x.change_ids) AS first_id INTO v_bounds
    FROM (
        SELECT c.id, c.transaction_id
        FROM threadline.readable_change_newest c
        WHERE c.table_id = p_change.table_id AND c.row_key = v_row_key AND c.key = v_key
          AND c.id < p_change.id AND c.transaction_id <> p_change.transaction_id AND c.op <> 2
          AND (c.op >= 3 OR NOT v_counted)
        LIMIT 1
    ) c
    CROSS JOIN LATERAL (SELECT x.change_ids FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x;
    RETURN (
        SELECT c.id
        FROM threadline.readable_change c
        WHERE c.table_id = p_change.table_id AND c.row_key = v_row_key AND c.key = v_key
          AND c.id >= v_bounds.first_id AND c.id <= v_bounds.id AND c.transaction_id = v_bounds.transaction_id
          AND c.op <> 2
          AND (c.op >= 3 OR NOT v_counted)
        ORDER BY c.statement_no DESC, c.op DESC, c.id DESC
        LIMIT 1);
END
$$;

CREATE FUNCTION threadline.next_row_change(p_change threadline.readable_change) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_counted constant boolean := cardinality(p_change.key_columns) = 0;
    v_bounds record;
    v_next threadline.readable_change;
    v_row_key bigint;
BEGIN
    IF v_counted AND p_change.op <= 2 THEN
        RETURN NULL;
    END IF;
    SELECT lower(x.change_ids) AS first_id, upper(x.change_ids) AS end_id INTO v_bounds
    FROM threadline.readable_transaction x WHERE x.id = p_change.transaction_id;
    SELECT c.* INTO v_next
    FROM threadline.readable_change c
    WHERE c.table_id = p_change.table_id AND c.row_key = p_change.row_key AND c.key = p_change.key
      AND c.id >= v_bounds.first_id AND c.id < v_bounds.end_id AND c.transaction_id = p_change.transaction_id
      AND (c.statement_no, c.op, c.id) > (p_change.statement_no, p_change.op, p_change.id)
      AND (NOT v_counted OR c.op <= 2 OR c.op = 5 AND c.old_key IS NULL)
    ORDER BY c.statement_no, c.op, c.id
    LIMIT 1;
    IF NOT FOUND THEN
        SELECT c.id, c.transaction_id, upper(x.change_ids) AS end_id INTO v_bounds
        FROM (
            SELECT c.id, c.transaction_id
            FROM threadline.readable_change_oldest c
            WHERE c.table_id = p_change.table_id AND c.row_key = p_change.row_key AND c.key = p_change.key
              AND c.id > p_change.id AND c.transaction_id <> p_change.transaction_id
              AND (NOT v_counted OR c.op <= 2 OR c.op = 5 AND c.old_key IS NULL)
            LIMIT 1
        ) c
        CROSS JOIN LATERAL (SELECT x.change_ids FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x;
        SELECT c.* INTO v_next
        FROM threadline.readable_change c
        WHERE c.table_id = p_change.table_id AND c.row_key = p_change.row_key AND c.key = p_change.key
          AND c.id >= v_bounds.id AND c.id < v_bounds.end_id AND c.transaction_id = v_bounds.transaction_id
          AND (NOT v_counted OR c.op <= 2 OR c.op = 5 AND c.old_key IS NULL)
        ORDER BY c.statement_no, c.op, c.id
        LIMIT 1;
    END IF;
    IF v_next.op IS DISTINCT FROM 2 THEN
        RETURN v_next.id;
    END IF;
    v_row_key := threadline.row_key_of(
        (SELECT t.relation FROM threadline.readable_table t WHERE t.table_id = v_next.table_id), v_next.key_columns, v_next.old_key);
    RETURN (
        SELECT c.id
        FROM threadline.readable_change c
        CROSS JOIN (SELECT lower(x.change_ids) AS first_id, upper(x.change_ids) AS end_id
                    FROM threadline.readable_transaction x WHERE x.id = v_next.transaction_id OFFSET 0) b
        WHERE c.table_id = v_next.table_id AND c.row_key = v_row_key AND c.key = v_next.old_key
          AND c.transaction_id = v_next.transaction_id AND c.statement_no = v_next.statement_no
          AND c.op = 5 AND c.old_key = v_next.key
          AND c.id >= b.first_id AND c.id < b.end_id
        ORDER BY c.id
        LIMIT 1);
END
$$;

-- A row may have fallen to a mark between two of its changes.
CREATE FUNCTION threadline.previous_change(p_change threadline.readable_change) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_previous threadline.readable_change;
    v_mark threadline.readable_change;
BEGIN
    SELECT c.* INTO v_previous FROM threadline.readable_change c WHERE c.id = threadline.previous_row_change(p_change);
    IF v_previous.op >= 3 AND p_change.op >= 3 THEN
        v_mark := threadline.mark_after(v_previous, NULL);
    END IF;
    IF v_mark.id IS NOT NULL
       AND (CASE WHEN v_mark.transaction_id = p_change.transaction_id THEN v_mark.statement_no <= p_change.statement_no
                 ELSE v_mark.id < p_change.id END) THEN
        RETURN v_mark.id;
    END IF;
    RETURN v_previous.id;
END
$$;

CREATE FUNCTION threadline.next_change(p_change threadline.readable_change) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_next threadline.readable_change;
    v_mark threadline.readable_change;
BEGIN
    SELECT c.* INTO v_next FROM threadline.readable_change c WHERE c.id = threadline.next_row_change(p_change);
    IF p_change.op >= 3 THEN
        v_mark := threadline.mark_after(p_change, NULL);
    END IF;
    IF v_mark.id IS NOT NULL
       AND (v_next.id IS NULL
            OR CASE WHEN v_mark.transaction_id = v_next.transaction_id THEN v_mark.statement_no <= v_next.statement_no
                    ELSE v_mark.id < v_next.id END) THEN
        RETURN v_mark.id;
    END IF;
    RETURN v_next.id;
END
$$;

CREATE TYPE threadline.transaction_bundle AS (
    transaction_id uuid,
    commit_no      bigint,
    is_complete    boolean,
    document       jsonb
);

-- The bundles of some transactions. Where a row has no more to it than its changes, the one before and the one after each are
-- looked up for all at once: by id among those of other transactions, where the two nearest tell whether it is the only one of its
-- own. The functions above know the rest: keys that changed, marks, and rows that are counted.
CREATE FUNCTION threadline.transaction_bundles(p_ids uuid[]) RETURNS SETOF threadline.transaction_bundle
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET timezone = 'UTC'
AS $$
DECLARE
    v_chosen constant threadline.chosen_transaction[] := ARRAY(
        SELECT ROW(x.id, x.commit_no, x.committed_at, x.change_count, x.change_ids, x.actor_ref, x.action_id,
                   x.correlation_id, x.request_id, x.job_id)::threadline.chosen_transaction
        FROM threadline.readable_transaction x
        WHERE x.id = ANY (p_ids));
BEGIN
    RETURN QUERY
    WITH tx AS MATERIALIZED (
        SELECT x.* FROM threadline.audit_transactions x WHERE x.id = ANY (p_ids)
    ), action AS MATERIALIZED (
        SELECT a.id, a.transaction_id, a.inserted_at, to_jsonb(a) - 'transaction_id' AS document
        FROM threadline.readable_action a
        WHERE a.transaction_id = ANY (p_ids)
    ), own AS MATERIALIZED (
        SELECT c AS change, c.id, c.transaction_id, c.table_id, c.row_key, c.key, c.op, c.statement_no, c.schema_version, c.old_key IS NOT NULL AS has_moved,
               cardinality(c.key_columns) = 0 AS is_counted
        FROM threadline.chosen_changes(v_chosen, NULL, NULL, NULL, NULL, '-infinity', 'infinity') c
    ), subject AS MATERIALIZED (
        SELECT t.table_id, t.is_counted, m.is_marked
        FROM (SELECT DISTINCT o.table_id, o.is_counted FROM own o) t
        CROSS JOIN LATERAL (
            SELECT count(*) > 0 AS is_marked
            FROM (SELECT FROM threadline.readable_mark m WHERE m.table_id = t.table_id LIMIT 1) m
        ) m
    ), inside AS MATERIALIZED (
        SELECT o.*, s.is_counted OR s.is_marked AS is_odd,
               CASE WHEN o.op <> 2 THEN lag(o.id) OVER (PARTITION BY o.op = 2, o.transaction_id, o.table_id, o.row_key, o.key ORDER BY o.statement_no, o.op, o.id) END AS id_before,
               lead(o.id) OVER w AS id_after, lead(o.op) OVER w AS op_after
        FROM own o
        JOIN subject s ON s.table_id = o.table_id AND s.is_counted = o.is_counted
        WINDOW w AS (PARTITION BY o.transaction_id, o.table_id, o.row_key, o.key ORDER BY o.statement_no, o.op, o.id)
    ), neighbour AS MATERIALIZED (
        SELECT i.id,
               CASE WHEN i.is_odd OR i.has_moved THEN threadline.previous_change(i.change)
                    ELSE coalesce(i.id_before, b.id, p.ids[1]) END AS previous_id,
               CASE WHEN i.is_odd OR coalesce(i.op_after, a.op, n.ops[1]) = 2 THEN threadline.next_change(i.change)
                    ELSE coalesce(i.id_after, a.id, n.ids[1]) END AS next_id
        FROM inside i
        CROSS JOIN LATERAL (
            SELECT array_agg(q.id ORDER BY q.id DESC) AS ids, array_agg(q.transaction_id ORDER BY q.id DESC) AS transactions
            FROM (SELECT p.id, p.transaction_id
                  FROM threadline.readable_place_newest p
                  WHERE i.id_before IS NULL AND NOT i.is_odd AND NOT i.has_moved
                    AND p.table_id = i.table_id AND p.row_key = i.row_key AND p.key = i.key
                    AND p.id < i.id AND p.transaction_id <> i.transaction_id AND p.op <> 2
                  LIMIT 2) q
        ) p
        LEFT JOIN LATERAL (
            SELECT c.id
            FROM threadline.readable_place_newest c
            WHERE p.transactions[1] = p.transactions[2]
              AND c.table_id = i.table_id AND c.row_key = i.row_key AND c.key = i.key
              AND c.id <= p.ids[1] AND c.transaction_id = p.transactions[1] AND c.op <> 2
              AND c.id >= (SELECT lower(x.change_ids) FROM threadline.readable_transaction x WHERE x.id = p.transactions[1])
            ORDER BY c.statement_no DESC, c.op DESC, c.id DESC
            LIMIT 1
        ) b ON true
        CROSS JOIN LATERAL (
            SELECT array_agg(q.id ORDER BY q.id) AS ids, array_agg(q.transaction_id ORDER BY q.id) AS transactions, array_agg(q.op ORDER BY q.id) AS ops
            FROM (SELECT p.id, p.transaction_id, p.op
                  FROM threadline.readable_place_oldest p
                  WHERE i.id_after IS NULL AND NOT i.is_odd
                    AND p.table_id = i.table_id AND p.row_key = i.row_key AND p.key = i.key
                    AND p.id > i.id AND p.transaction_id <> i.transaction_id
                  LIMIT 2) q
        ) n
        LEFT JOIN LATERAL (
            SELECT c.id, c.op
            FROM threadline.readable_place_oldest c
            WHERE n.transactions[1] = n.transactions[2]
              AND c.table_id = i.table_id AND c.row_key = i.row_key AND c.key = i.key
              AND c.id >= n.ids[1] AND c.transaction_id = n.transactions[1]
              AND c.id < (SELECT upper(x.change_ids) FROM threadline.readable_transaction x WHERE x.id = n.transactions[1])
            ORDER BY c.statement_no, c.op, c.id
            LIMIT 1
        ) a ON true
        WHERE i.op <> 2
    ), nearby AS MATERIALIZED (
        SELECT c.*
        FROM threadline.audit_changes c
        WHERE c.id = ANY (ARRAY(SELECT n.previous_id FROM neighbour n UNION SELECT n.next_id FROM neighbour n))
    ), their_tx AS MATERIALIZED (
        SELECT x.id, x.committed_at, x.actor_ref
        FROM threadline.readable_transaction x
        WHERE x.id = ANY (ARRAY(SELECT DISTINCT n.transaction_id FROM nearby n))
    ), near_document AS MATERIALIZED (
        -- What is put together is JSON text, turned into jsonb once at the end: that copies its parts at every level.
        SELECT d.id, to_json(d) AS document
        FROM (SELECT n.*, x.committed_at, x.actor_ref FROM nearby n LEFT JOIN their_tx x ON x.id = n.transaction_id) d
    ), statement AS MATERIALIZED (
        SELECT s.transaction_id, s.statement_no, threadline.statement_entry(tx.statements, s.statement_no) AS no
        FROM (SELECT DISTINCT o.transaction_id, o.statement_no FROM own o WHERE o.op <> 2) s
        JOIN tx ON tx.id = s.transaction_id
    ), shown AS MATERIALIZED (
        SELECT o.id, o.transaction_id, o.statement_no,
               ROW((o.change).id, (o.change).transaction_id, (o.change).table_schema, (o.change).table_name, (o.change).table_pk, (o.change).old_pk,
                   (o.change).op_name, (o.change).changed_fields, (o.change).old_image, (o.change).new_image, (o.change).captured_at,
                   (o.change).statement_no, (o.change).schema_version)::threadline.audit_change_row AS change
        FROM own o
        WHERE o.op <> 2
    ), change AS MATERIALIZED (
        SELECT o.transaction_id, count(*) AS changes,
               json_agg(json_build_object(
                             'audit_change', to_json(o.change),
                             'statement', s.no,
                             'change_diff', d.document,
                             'previous_change', p.document,
                             'next_change', f.document)
                         ORDER BY o.statement_no, o.id) AS documents
        FROM shown o
        JOIN neighbour n ON n.id = o.id
        JOIN statement s ON s.transaction_id = o.transaction_id AND s.statement_no = o.statement_no
        JOIN threadline.diff_documents(ARRAY(SELECT h.change FROM shown h), false) d ON d.id = o.id
        LEFT JOIN near_document p ON p.id = n.previous_id
        LEFT JOIN near_document f ON f.id = n.next_id
        GROUP BY o.transaction_id
    ), shape AS MATERIALIZED (
        SELECT s.transaction_id,
               jsonb_agg(jsonb_build_object(
                             'table_schema', v.table_schema, 'table_name', v.table_name, 'schema_version', v.version, 'schema_then', v.schema_name,
                             'name_then', v.name_then, 'key_columns', v.key_columns, 'columns', v.columns)
                         ORDER BY v.table_schema, v.table_name, v.table_id, v.version) AS documents
        FROM (SELECT DISTINCT o.transaction_id, o.table_id, o.schema_version FROM own o) s
        JOIN threadline.readable_version v ON v.table_id = s.table_id AND v.version = s.schema_version
        GROUP BY s.transaction_id
    ), touched AS MATERIALIZED (
        SELECT DISTINCT o.transaction_id, o.table_id FROM own o
    ), gap AS MATERIALIZED (
        SELECT t.transaction_id, jsonb_agg(to_jsonb(g) - 'table_id' ORDER BY g.table_schema, g.table_name, g.since_at, g.reason) AS documents
        FROM touched t
        JOIN tx ON tx.id = t.transaction_id
        JOIN (
            SELECT g.*
            FROM (SELECT t.table_id, min(tx.occurred_at) AS since_at, max(coalesce(tx.committed_at, 'infinity')) AS until_at
                  FROM touched t JOIN tx ON tx.id = t.transaction_id GROUP BY t.table_id) u
            CROSS JOIN LATERAL threadline.gaps_between(u.table_id, u.since_at, u.until_at) g
        ) g ON g.table_id = t.table_id AND g.until_at > tx.occurred_at AND g.since_at <= coalesce(tx.committed_at, 'infinity')
        GROUP BY t.transaction_id
    )
    SELECT tx.id, tx.commit_no, coalesce(c.changes, 0) = tx.change_count AND g.documents IS NULL,
           jsonb_build_object(
               'transaction', to_jsonb(tx) - 'statements',
               'action', (SELECT a.document FROM action a WHERE a.id = tx.action_id AND a.transaction_id = tx.id),
               'actions', (SELECT coalesce(jsonb_agg(a.document ORDER BY a.inserted_at, a.id), '[]') FROM action a WHERE a.transaction_id = tx.id),
               'statements', (
                   SELECT coalesce(jsonb_agg(to_jsonb(s) ORDER BY s.no), '[]')
                   FROM threadline.audit_statements(tx.id) s),
               'changes', coalesce(c.documents, '[]'::json),
               'schemas', coalesce(s.documents, '[]'),
               'coverage', jsonb_build_object(
                   'complete', coalesce(c.changes, 0) = tx.change_count AND g.documents IS NULL,
                   'recorded_changes', tx.change_count,
                   'listed_changes', coalesce(c.changes, 0),
                   'gaps', coalesce(g.documents, '[]')))
    FROM tx
    LEFT JOIN change c ON c.transaction_id = tx.id
    LEFT JOIN shape s ON s.transaction_id = tx.id
    LEFT JOIN gap g ON g.transaction_id = tx.id;
END
$$;

CREATE FUNCTION threadline.incident_bundle(transaction_id uuid) RETURNS jsonb
LANGUAGE sql STABLE
RETURN (SELECT b.document FROM threadline.transaction_bundles(ARRAY[incident_bundle.transaction_id]) b);

COMMENT ON FUNCTION threadline.incident_bundle(uuid) IS
    'One transaction as JSON, from one snapshot: transaction, action (the last one recorded, or null), actions, statements (what made the changes, with call stacks: see audit_statements), changes (oldest first, each with audit_change, the statement''s no, change_diff, and the previous_change and next_change of the same row), schemas (the shapes that its tables had) and coverage. coverage.complete is false when the caller may not read all its changes, some were purged, or a gap overlaps it. Times in UTC; the same log gives the same bytes. NULL for an unknown transaction.';

CREATE FUNCTION threadline.incident_bundle_for(correlation_id text = NULL, request_id text = NULL, job_id text = NULL, actor jsonb = NULL, since timestamptz = NULL, until timestamptz = NULL)
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET timezone = 'UTC'
AS $$
DECLARE
    v_since constant timestamptz := coalesce(incident_bundle_for.since, '-infinity');
    v_until constant timestamptz := coalesce(incident_bundle_for.until, 'infinity');
    v_is_settled boolean;
    v_ids uuid[];
    v_gaps jsonb;
    v_result jsonb;
BEGIN
    IF num_nulls(incident_bundle_for.correlation_id, incident_bundle_for.request_id, incident_bundle_for.job_id, incident_bundle_for.actor,
                 incident_bundle_for.since, incident_bundle_for.until) = 6 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'nothing says which transactions are meant',
            HINT = 'Give at least one: SELECT threadline.incident_bundle_for(job_id => ''nightly-42'');';
    END IF;
    v_ids := ARRAY(
        SELECT x.id
        FROM threadline.selected_transactions(threadline.selection_of(incident_bundle_for.actor, incident_bundle_for.correlation_id,
                                                                      incident_bundle_for.request_id, incident_bundle_for.job_id), v_since) x
        WHERE x.occurred_at <= v_until);
    -- What is still to come is none of the question.
    v_is_settled := threadline.settled(CASE WHEN v_until > clock_timestamp() THEN 'infinity' ELSE v_until END);
    SELECT coalesce(jsonb_agg(to_jsonb(g) - 'table_id' ORDER BY g.table_schema, g.table_name, g.since_at, g.until_at, g.reason, g.detail::text), '[]')
    INTO v_gaps
    FROM threadline.readable_table t
    CROSS JOIN LATERAL threadline.gaps_in_window(t.table_id, v_since, v_until) g;
    SELECT jsonb_build_object(
               'selectors', jsonb_strip_nulls(jsonb_build_object(
                   'correlation_id', incident_bundle_for.correlation_id, 'request_id', incident_bundle_for.request_id, 'job_id', incident_bundle_for.job_id,
                   'since', incident_bundle_for.since, 'until', incident_bundle_for.until))
                   || CASE WHEN incident_bundle_for.actor IS NULL THEN '{}' ELSE jsonb_build_object('actor', incident_bundle_for.actor) END,
               'transactions', coalesce(jsonb_agg(b.document ORDER BY b.commit_no, b.transaction_id), '[]'),
               'coverage', jsonb_build_object(
                   'complete', v_is_settled AND v_gaps = '[]' AND coalesce(bool_and(b.is_complete), true),
                   'reasons', array_remove(ARRAY[
                       CASE WHEN v_gaps <> '[]' THEN 'gaps in the record' END,
                       CASE WHEN NOT v_is_settled THEN 'transactions still in flight' END,
                       CASE WHEN NOT bool_and(b.is_complete) THEN 'transactions that are not shown whole' END], NULL),
                   'transactions', count(b.transaction_id),
                   'recorded_changes', coalesce(sum((b.document #>> '{coverage,recorded_changes}')::bigint), 0),
                   'listed_changes', coalesce(sum((b.document #>> '{coverage,listed_changes}')::bigint), 0),
                   'gaps', v_gaps))
    INTO v_result
    FROM threadline.transaction_bundles(v_ids) b;
    RETURN v_result;
END
$$;

COMMENT ON FUNCTION threadline.incident_bundle_for(text, text, text, jsonb, timestamptz, timestamptz) IS
    'All transactions that a correlation, request, job or actor made, in commit order, each as incident_bundle has it, with what was asked (selectors) and coverage: "did this job change anything?" Every selector given must hold, chosen as audit_timeline does; since and until bound the time of a transaction''s first change, both inclusive. None found is an answer: transactions is empty. coverage.complete is false, with reasons, when a table the caller may read has a gap in the window, a transaction in flight may still belong to it, or one is not shown whole. Times in UTC; the same log gives the same bytes. Errors: 22023 no selector; 54000 more than a JSON document can hold.';

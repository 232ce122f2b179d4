-- Everything about one transaction in one document.

-- The neighbours of a change in its row's history are read by index; inside the transaction, whose order ids do
-- not give, they are found by sorting. A row that arrived from another key has its past under that key, and one
-- that moved on has its future under the next. Identical rows of a table without a key share their changes: before a change
-- stands the newest that left such a row, after it the first at which one of them left.
CREATE FUNCTION threadline.neighbour_document(p_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    RETURN (
        SELECT to_jsonb(c) || jsonb_build_object('committed_at', x.committed_at, 'actor_ref', x.actor_ref)
        FROM threadline.audit_changes c
        LEFT JOIN LATERAL (SELECT t.committed_at, t.actor_ref FROM threadline.readable_transaction t WHERE t.id = c.transaction_id OFFSET 0) x ON true
        WHERE c.id = p_id);
END
$$;

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
    JOIN threadline.readable_transaction x ON x.id = c.transaction_id;
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
        JOIN threadline.readable_transaction x ON x.id = c.transaction_id;
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

CREATE FUNCTION threadline.incident_bundle(transaction_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET timezone = 'UTC'
AS $$
BEGIN
    RETURN (
        WITH tx AS MATERIALIZED (
            SELECT x.* FROM threadline.audit_transactions x WHERE x.id = incident_bundle.transaction_id
        ), action AS MATERIALIZED (
            SELECT a.id, a.inserted_at, to_jsonb(a) - 'transaction_id' AS document
            FROM threadline.readable_action a
            WHERE a.transaction_id = incident_bundle.transaction_id
        ), change AS MATERIALIZED (
            SELECT c.* FROM threadline.audit_changes_for_transaction(incident_bundle.transaction_id) c
        ), whole AS (
            SELECT w.*
            FROM change
            CROSS JOIN LATERAL (SELECT c.* FROM threadline.readable_change c WHERE c.id = change.id OFFSET 0) w
        ), gap AS MATERIALIZED (
            SELECT g.*
            FROM (SELECT DISTINCT w.table_id FROM whole w) t
            CROSS JOIN tx
            CROSS JOIN LATERAL threadline.gaps_between(t.table_id, tx.occurred_at, coalesce(tx.committed_at, 'infinity')) g
        ), listed AS (
            SELECT count(*) AS changes FROM change
        )
        SELECT jsonb_build_object(
            'transaction', to_jsonb(tx) - 'statements',
            'action', (SELECT a.document FROM action a WHERE a.id = tx.action_id),
            'actions', (SELECT coalesce(jsonb_agg(a.document ORDER BY a.inserted_at, a.id), '[]') FROM action a),
            'statements', (
                SELECT coalesce(jsonb_agg(to_jsonb(s) ORDER BY s.no), '[]')
                FROM threadline.audit_statements(incident_bundle.transaction_id) s),
            'changes', (
                SELECT coalesce(jsonb_agg(
                           jsonb_build_object(
                               'audit_change', to_jsonb(c),
                               'statement', threadline.statement_entry(tx.statements, c.statement_no),
                               'change_diff', threadline.diff_document(c, false, 'v1'),
                               'previous_change', threadline.neighbour_document(threadline.previous_change(w)),
                               'next_change', threadline.neighbour_document(threadline.next_change(w)))
                           ORDER BY c.statement_no, c.id), '[]')
                FROM change c
                JOIN whole w ON w.id = c.id),
            'coverage', jsonb_build_object(
                'complete', listed.changes = tx.change_count AND NOT EXISTS (SELECT FROM gap),
                'recorded_changes', tx.change_count,
                'listed_changes', listed.changes,
                'gaps', (SELECT coalesce(jsonb_agg(to_jsonb(g) - 'table_id' ORDER BY g.table_schema, g.table_name, g.since_at, g.reason), '[]') FROM gap g)))
        FROM tx CROSS JOIN listed);
END
$$;

COMMENT ON FUNCTION threadline.incident_bundle(uuid) IS
    'One transaction as JSON, from one snapshot: transaction, action (the last one recorded, or null), actions, statements (what made the changes, with call stacks: see audit_statements), changes (oldest first, each with audit_change, the statement''s no, change_diff, and the previous_change and next_change of the same row) and coverage. coverage.complete is false when the caller may not read all its changes, some were purged, or a gap overlaps it. Times in UTC; the same log gives the same bytes. NULL for an unknown transaction.';

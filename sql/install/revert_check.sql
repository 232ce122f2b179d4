-- Taking back what transactions did, checked: what has happened since that stands in the way.

-- kind: changed (a later change of the row), redacted; and what nothing can be done about but taking back the transaction behind it:
-- gone (the row), held (a foreign key refers to the row that would go), orphan (what the row would refer to is gone), taken (a unique value
-- that would come back), unmatched (recorded under another key, or a dropped table). detail is NULL where it only tells of one more transaction.
CREATE TYPE threadline.revert_finding AS (
    entity         integer,
    kind           text,
    detail         text,
    transaction_id uuid
);

-- The rows that moves start from as they are now, locked if that is asked for.
CREATE FUNCTION threadline.revert_live(p_relation regclass, p_key_columns name[], p_no integer[], p_states jsonb[], p_lock boolean)
RETURNS TABLE (no integer, state jsonb)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
SET datestyle = 'ISO' SET timezone = 'UTC' SET bytea_output = hex SET extra_float_digits = 1 SET quote_all_identifiers = off
AS $$
DECLARE
    v_names constant text[] := threadline.revert_columns(p_relation);
BEGIN
    RETURN QUERY EXECUTE (
        SELECT format('SELECT u.no, %s FROM unnest($1, $2) AS u (no, state) JOIN %s AS t ON %s ORDER BY u.state::text%s',
                      threadline.state_of(v_names, ARRAY(SELECT format('t.%I', c.name) FROM unnest(v_names) WITH ORDINALITY AS c (name, n) ORDER BY c.n)),
                      threadline.revert_target(p_relation),
                      string_agg(format('t.%I %s (u.state ->> %L)::%s', a.attname, threadline.equality(a.atttypid), a.attname, format_type(a.atttypid, a.atttypmod)), ' AND ' ORDER BY a.attnum),
                      CASE WHEN p_lock THEN ' FOR UPDATE OF t' END)
        FROM pg_attribute a
        WHERE a.attrelid = p_relation AND a.attname = ANY (p_key_columns))
    USING p_no, p_states;
END
$$;

-- How often rows of a table without a key are there.
CREATE FUNCTION threadline.revert_copies(p_relation regclass, p_keys text[]) RETURNS TABLE (key text, copies bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT k.key, count(*) FROM %s AS t CROSS JOIN LATERAL threadline.row_key(t.*) AS k WHERE k.key = ANY ($1) GROUP BY k.key',
                                threadline.revert_target(p_relation))
    USING p_keys;
END
$$;

-- What became of the rows after the transactions p_set. p_lock: holds the rows until the end of the transaction.
CREATE FUNCTION threadline.revert_later(p_moves threadline.revert_move[], p_set uuid[], p_lock boolean) RETURNS SETOF threadline.revert_finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_table record;
    v_found record;
    v_no integer[] := '{}';
    v_live jsonb[] := '{}';
    v_gone integer[] := '{}';
BEGIN
    FOR v_table IN
        SELECT m.relation, m.table_id, m.key_columns, m.counted, array_agg(m.no) AS no, array_agg(m.state_from) AS states, array_agg(m.key_from) AS keys
        FROM unnest(p_moves) m
        WHERE m.relation IS NOT NULL AND m.state_from IS NOT NULL AND NOT m.other_key
        GROUP BY m.relation, m.table_id, m.key_columns, m.counted
        ORDER BY m.relation::oid
    LOOP
        IF v_table.counted THEN
            v_gone := v_gone || ARRAY(
                SELECT m.no
                FROM (SELECT m.no, m.key_from, row_number() OVER (PARTITION BY m.key_from ORDER BY m.no) AS copy
                      FROM unnest(p_moves) m
                      WHERE m.table_id = v_table.table_id AND m.state_from IS NOT NULL) m
                LEFT JOIN threadline.revert_copies(v_table.relation, v_table.keys) c ON c.key = m.key_from
                WHERE m.copy > coalesce(c.copies, 0));
        ELSE
            FOR v_found IN
                SELECT l.no, l.state FROM threadline.revert_live(v_table.relation, v_table.key_columns, v_table.no, v_table.states, p_lock) l
            LOOP
                v_no := v_no || v_found.no;
                v_live := v_live || v_found.state;
            END LOOP;
        END IF;
    END LOOP;

    RETURN QUERY
    WITH move AS MATERIALIZED (
        SELECT m.no, m.entity, m.table_id, m.row_key, m.log_key, m.first_id, m.last_id, m.state_from, m.counted, l.state AS live,
               CASE WHEN m.counted THEN g.no IS NOT NULL ELSE m.state_from IS NOT NULL AND l.no IS NULL END AS is_gone
        FROM unnest(p_moves) m
        LEFT JOIN unnest(v_no, v_live) AS l (no, state) ON l.no = m.no
        LEFT JOIN unnest(v_gone) AS g (no) ON g.no = m.no
        WHERE m.relation IS NOT NULL AND NOT m.other_key
    ), later AS MATERIALIZED (
        SELECT m.no, m.entity, m.counted, m.is_gone, c.*
        FROM move m
        CROSS JOIN LATERAL (
            SELECT c.id, c.transaction_id, c.op, c.changed_fields, threadline.key_object(c.key_columns, c.old_key) AS other_pk
            FROM threadline.readable_change c
            WHERE c.table_id = m.table_id AND c.row_key = m.row_key AND c.key = m.log_key
              AND c.id > m.first_id AND c.op <> 3 AND c.transaction_id <> ALL (p_set)
            OFFSET 0
        ) c
        -- Of identical rows only those count that left no copy to take back.
        WHERE CASE WHEN m.counted THEN m.is_gone AND c.op <= 2 ELSE m.state_from IS NOT NULL OR c.id < m.last_id END
    ), newest AS (
        SELECT DISTINCT ON (l.no) l.* FROM later l ORDER BY l.no, l.id DESC
    ), difference AS MATERIALIZED (
        SELECT m.no, m.entity, d.name, d.was, m.live ->> d.name AS is_now
        FROM move m
        CROSS JOIN LATERAL jsonb_each_text(m.state_from) AS d (name, was)
        WHERE m.live IS NOT NULL AND m.live ->> d.name IS DISTINCT FROM d.was
    )
    SELECT m.entity, 'gone',
           CASE WHEN m.counted THEN 'not enough copies of the row are left' || coalesce(' (one went in transaction ' || n.transaction_id || ')', '')
                WHEN n.op = 2 THEN format('the row is %s now (its key was changed by transaction %s)', n.other_pk, n.transaction_id)
                WHEN n.op <= 1 THEN format('the row was deleted by transaction %s', n.transaction_id)
                WHEN k.transaction_id IS NOT NULL THEN format('the row was truncated by transaction %s', k.transaction_id)
                ELSE 'the row is gone, and no recorded change says why' END,
           coalesce(n.transaction_id, k.transaction_id)
    FROM move m
    LEFT JOIN newest n ON n.no = m.no
    LEFT JOIN LATERAL (
        SELECT k.transaction_id
        FROM threadline.readable_change c
        CROSS JOIN LATERAL threadline.mark_after(c, NULL) k
        WHERE c.id = m.last_id AND (n.op IS NULL OR n.op > 2)
    ) k ON true
    WHERE m.is_gone
    UNION ALL
    SELECT d.entity, 'changed',
           format('%s: was %s after this transaction, is %s now (%s)', quote_ident(d.name), threadline.brief_value(to_jsonb(d.was)), threadline.brief_value(to_jsonb(d.is_now)),
                  coalesce('changed by transaction ' || coalesce(l.transaction_id, n.transaction_id), 'by a change that is not recorded')),
           coalesce(l.transaction_id, n.transaction_id)
    FROM difference d
    LEFT JOIN newest n ON n.no = d.no
    LEFT JOIN LATERAL (
        SELECT l.transaction_id FROM later l WHERE l.no = d.no AND (l.op = 4 OR d.name = ANY (l.changed_fields)) ORDER BY l.id DESC LIMIT 1
    ) l ON true
    UNION ALL
    SELECT l.entity, 'changed',
           CASE WHEN NOT l.is_gone AND NOT EXISTS (SELECT FROM difference d WHERE d.no = l.no)
                THEN format('the row was changed since by transaction %s, in no column that would show now', l.transaction_id) END,
           l.transaction_id
    FROM (SELECT DISTINCT l.no, l.entity, l.is_gone, l.transaction_id FROM later l) l
    UNION ALL
    SELECT m.entity, 'unmatched',
           CASE WHEN m.relation IS NULL THEN 'the table was dropped' ELSE 'the row was recorded when the table had another key' END, NULL
    FROM unnest(p_moves) m
    WHERE m.relation IS NULL OR m.other_key
    UNION ALL
    SELECT m.entity, 'unmatched', 'the table had other columns when the row was recorded, so its copies now cannot be told', NULL
    FROM unnest(p_moves) m
    WHERE m.counted AND m.relation IS NOT NULL AND NOT m.other_key AND m.state_from IS NOT NULL
      AND threadline.shape_differs(m.table_id, m.relation, m.last_id);
END
$$;

-- Moves that would have to write redacted columns.
CREATE FUNCTION threadline.revert_unwritable(p_moves threadline.revert_move[]) RETURNS SETOF threadline.revert_finding
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT m.entity, 'redacted',
           format(CASE WHEN m.state_from IS NULL THEN '%s redacted: the row comes back without' ELSE '%s redacted and not put back' END,
                  array_to_string(m.redacted, ', ') || CASE WHEN cardinality(m.redacted) = 1 THEN ' is' ELSE ' are' END), NULL::uuid
    FROM unnest(revert_unwritable.p_moves) AS m
    WHERE m.state_to IS NOT NULL AND cardinality(m.redacted) > 0;
END;

-- The transaction that made a row have what it has in columns, or made it; NULL when none is recorded.
CREATE FUNCTION threadline.revert_author(p_table_id integer, p_row_key bigint, p_key text, p_columns text[]) RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN (
        SELECT CASE WHEN c.op <> 3 THEN c.transaction_id END
        FROM threadline.readable_change_newest c
        WHERE c.table_id = p_table_id AND c.row_key = p_row_key AND c.key = p_key
          AND (c.op IN (3, 4) OR c.op = 5 AND (c.old_key IS NOT NULL OR c.changed_fields && p_columns))
        LIMIT 1);
END
$$;

-- The transaction that a key was last left in, by values of columns that are the table's key; else NULL.
CREATE FUNCTION threadline.revert_leaver(p_relation regclass, p_columns text[], p_values text[]) RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN (
        SELECT c.transaction_id
        FROM threadline.readable_table t
        CROSS JOIN LATERAL threadline.key_lookup(t.relation, jsonb_object(p_columns, p_values)::text) k
        CROSS JOIN LATERAL (
            SELECT c.transaction_id
            FROM threadline.readable_change_newest c
            WHERE c.table_id = k.table_id AND c.row_key = k.row_key AND c.key = k.key AND c.op <= 2
            LIMIT 1) c
        WHERE t.relation = p_relation AND cardinality(t.key_columns) > 0
          AND t.key_columns::text[] <@ p_columns AND p_columns <@ t.key_columns::text[]);
END
$$;

-- Rows, not among the moved ones, that have given values: one for each move and row, as the table's log has its key.
-- p_operators: equality of the value's column and the row's, NULL: the row's type's own.
CREATE FUNCTION threadline.revert_holders(p_relation regclass, p_columns text[], p_from regclass, p_from_columns text[], p_operators oid[],
                                          p_no integer[], p_states jsonb[], p_moved text[])
RETURNS TABLE (no integer, row_key bigint, key text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_is_captured constant boolean := EXISTS (SELECT FROM threadline.readable_table t WHERE t.relation = p_relation);
BEGIN
    IF NOT has_table_privilege(p_relation, 'SELECT') THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE (
        SELECT format('SELECT u.no, h.row_key, h.key FROM unnest($1, $2) AS u (no, state) CROSS JOIN LATERAL (SELECT %s FROM %s AS t%s WHERE %s%s LIMIT 100) AS h',
                      CASE WHEN v_is_captured THEN 'k.row_key, k.key' ELSE 'NULL::bigint AS row_key, NULL::text AS key' END,
                      threadline.revert_target(p_relation),
                      CASE WHEN v_is_captured THEN ' CROSS JOIN LATERAL threadline.row_key(t.*) AS k' END,
                      string_agg(format('(u.state ->> %L)::%s %s t.%I', f.attname, format_type(f.atttypid, f.atttypmod),
                                        coalesce((SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
                                                  WHERE o.oid = p_operators[c.n::integer]), threadline.equality(f.atttypid)), c.name), ' AND '),
                      CASE WHEN v_is_captured THEN ' AND k.key <> ALL ($3)' END)
        FROM unnest(p_columns, p_from_columns) WITH ORDINALITY AS c (name, from_name, n)
        JOIN pg_attribute f ON f.attrelid = p_from AND f.attname = c.from_name)
    USING p_no, p_states, p_moved;
END
$$;

-- What rows that the moves leave alone have to do with them by foreign keys and unique indexes.
CREATE FUNCTION threadline.revert_bound(p_moves threadline.revert_move[]) RETURNS SETOF threadline.revert_finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_relations constant oid[] := ARRAY(SELECT DISTINCT m.relation::oid FROM unnest(p_moves) m WHERE m.relation IS NOT NULL AND NOT m.other_key);
    v_handles constant threadline.revert_handle[] := ARRAY(SELECT h FROM threadline.revert_handles(p_moves) h);
    v_key record;
    v_asked record;
    v_moved text[];
BEGIN
    FOR v_key IN SELECT f.* FROM threadline.revert_foreign_keys(v_relations) f ORDER BY f.id LOOP
        -- Rows that refer to what would go.
        SELECT array_agg(m.no) AS no, array_agg(m.state_from) AS states INTO v_asked
        FROM unnest(v_handles) h
        JOIN unnest(p_moves) m ON m.no = h.no
        WHERE h.id = v_key.id AND h.role = 'parent' AND h.was IS NOT NULL AND (h.goes OR NOT h.follows_update)
          AND NOT EXISTS (SELECT FROM unnest(v_handles) o WHERE o.id = v_key.id AND o.role = 'parent' AND o.becomes = h.was);
        v_moved := ARRAY(SELECT m.key_from FROM unnest(v_handles) h JOIN unnest(p_moves) m ON m.no = h.no
                         WHERE h.id = v_key.id AND h.role = 'child' AND m.key_from IS NOT NULL);
        IF v_asked.no IS NOT NULL THEN
            RETURN QUERY
            SELECT m.entity, 'held',
                   format('a row of %s refers to it (%s%s)', threadline.qualified_name(v_key.child), quote_ident(v_key.name),
                          coalesce(': ' || threadline.key_object(t.key_columns, r.key)::text, '') || coalesce(', written by transaction ' || a.id, '')), a.id
            FROM threadline.revert_holders(v_key.child, v_key.child_columns, v_key.parent, v_key.parent_columns, v_key.operators, v_asked.no, v_asked.states, v_moved) r
            JOIN unnest(p_moves) m ON m.no = r.no
            LEFT JOIN threadline.readable_table t ON t.relation = v_key.child
            CROSS JOIN LATERAL (SELECT threadline.revert_author(t.table_id, r.row_key, r.key, v_key.child_columns)) AS a (id);
        END IF;
        -- Rows that would refer to what is not there and does not come.
        SELECT array_agg(m.no) AS no, array_agg(m.state_to) AS states INTO v_asked
        FROM unnest(v_handles) h
        JOIN unnest(p_moves) m ON m.no = h.no
        WHERE h.id = v_key.id AND h.role = 'child' AND h.becomes IS NOT NULL
          AND NOT EXISTS (SELECT FROM unnest(v_handles) o WHERE o.id = v_key.id AND o.role = 'parent' AND o.becomes = h.becomes);
        IF v_asked.no IS NOT NULL AND has_table_privilege(v_key.parent, 'SELECT') THEN
            RETURN QUERY
            SELECT m.entity, 'orphan',
                   format('the row of %s that it would refer to is gone (%s%s)', threadline.qualified_name(v_key.parent), quote_ident(v_key.name),
                          coalesce(', deleted by transaction ' || a.id, '')), a.id
            FROM unnest(v_asked.no) AS n (no)
            JOIN unnest(p_moves) m ON m.no = n.no
            CROSS JOIN LATERAL (SELECT threadline.revert_leaver(v_key.parent, v_key.parent_columns, threadline.state_values(m.state_to, v_key.child_columns))) AS a (id)
            WHERE n.no NOT IN (
                SELECT r.no
                FROM threadline.revert_holders(v_key.parent, v_key.parent_columns, v_key.child, v_key.child_columns, NULL, v_asked.no, v_asked.states, '{}') r);
        END IF;
    END LOOP;
    FOR v_key IN SELECT u.* FROM threadline.revert_unique_keys(v_relations) u ORDER BY u.id LOOP
        SELECT array_agg(m.no) AS no, array_agg(m.state_to) AS states INTO v_asked
        FROM unnest(v_handles) h
        JOIN unnest(p_moves) m ON m.no = h.no
        WHERE h.id = v_key.id AND h.becomes IS NOT NULL;
        v_moved := ARRAY(SELECT m.key_from FROM unnest(v_handles) h JOIN unnest(p_moves) m ON m.no = h.no
                         WHERE h.id = v_key.id AND m.key_from IS NOT NULL);
        IF v_asked.no IS NOT NULL THEN
            RETURN QUERY
            SELECT m.entity, 'taken',
                   format('another row has (%s) = (%s) now (%s: %s%s)', array_to_string(v_key.columns, ', '),
                          array_to_string(threadline.state_values(m.state_to, v_key.columns), ', '), quote_ident(v_key.name),
                          threadline.key_object(t.key_columns, r.key), coalesce(', written by transaction ' || a.id, '')), a.id
            FROM threadline.revert_holders(v_key.relation, v_key.columns, v_key.relation, v_key.columns, NULL, v_asked.no, v_asked.states, v_moved) r
            JOIN unnest(p_moves) m ON m.no = r.no
            JOIN threadline.readable_table t ON t.relation = v_key.relation
            CROSS JOIN LATERAL (SELECT threadline.revert_author(t.table_id, r.row_key, r.key, v_key.columns)) AS a (id);
        END IF;
    END LOOP;
END
$$;

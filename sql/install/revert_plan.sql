-- Taking back what transactions did: which rows have to become what.
-- A state of a row is {"column": "text"} in names of now, each value as its type's output function writes it (NULL: JSON null), of
-- the columns that can be written and are known: not the redacted ones, nor those that came later. Texts compare to the last character.

CREATE TYPE threadline.audit_revert_step AS (
    step       integer,
    table_name text,
    table_pk   jsonb,
    statement  text,
    status     text,
    detail     text
);
COMMENT ON TYPE threadline.audit_revert_step IS 'One row that audit_revert, audit_revert_set or audit_restore puts back.';
COMMENT ON COLUMN threadline.audit_revert_step.step IS 'Order in which the statements run; NULL for a side effect and for a constraint that fails at the end.';
COMMENT ON COLUMN threadline.audit_revert_step.table_name IS 'Schema and table, quoted where needed.';
COMMENT ON COLUMN threadline.audit_revert_step.table_pk IS 'Key of the row as text values, as it is before the step; of a row that comes back, as it will be.';
COMMENT ON COLUMN threadline.audit_revert_step.statement IS 'The statement that puts the row back; NULL when there is none.';
COMMENT ON COLUMN threadline.audit_revert_step.status IS 'ok (rehearsed without an error), applied, conflict (left: something since, named in detail, stands in the way), redacted (left: a redacted column would have to be put back), fails (the rehearsal ended in the error in detail), not_rehearsed (in a READ ONLY transaction or on a standby), nothing (audit_restore: the row is as it was), side_effect (a row that triggers or foreign keys change beyond the steps).';
COMMENT ON COLUMN threadline.audit_revert_step.detail IS 'Conflicts by column, with the transaction behind each; what is left out; the server''s error.';

-- A change that is taken back. n: its place in the history. entity: the same for all changes of a row, through changes of
-- its key; of tables without a key one for each copy that came or went on balance. first_id: the row's first change
-- under this key. changed: what an update changed, in names of now. hidden: the redacted columns of its version; redacted, gone: those it
-- would put back that are redacted, or no columns any more.
CREATE TYPE threadline.revert_change AS (
    n           integer,
    entity      integer,
    is_last     boolean,
    first_id    bigint,
    id          bigint,
    table_id    integer,
    row_key     bigint,
    key         text,
    old_key     text,
    op          smallint,
    version     integer,
    key_columns name[],
    old_image   jsonb,
    old_exact   jsonb,
    new_image   jsonb,
    new_exact   jsonb,
    changed     text[],
    hidden      text[],
    redacted    text[],
    gone        text[]
);

-- A row on its way back, from what the transactions made of it to what they found. key_from, key_to: as the log has them; a
-- state that is NULL is no row. row_key and log_key: where the last change of the row stands in the log.
CREATE TYPE threadline.revert_move AS (
    no          integer,
    entity      integer,
    table_id    integer,
    relation    regclass,
    table_name  text,
    key_columns name[],
    counted     boolean,
    other_key   boolean,
    row_key     bigint,
    log_key     text,
    first_id    bigint,
    last_id     bigint,
    table_pk    jsonb,
    key_from    text,
    key_to      text,
    state_from  jsonb,
    state_to    jsonb,
    redacted    text[],
    gone        text[]
);

-- Every recorded row of transactions, departures among them.
CREATE FUNCTION threadline.revert_changes(p_set uuid[]) RETURNS SETOF threadline.readable_change
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT c.*
    FROM (
        SELECT x.id, lower(r.ids) AS first_id, upper(r.ids) AS end_id
        FROM threadline.readable_transaction x
        CROSS JOIN LATERAL unnest(x.change_ids) AS r (ids)
        WHERE x.id = ANY (p_set)
        OFFSET 0
    ) r
    CROSS JOIN LATERAL (
        SELECT c.*
        FROM threadline.readable_change c
        WHERE c.id >= r.first_id AND c.id < r.end_id AND c.transaction_id = r.id
        OFFSET 0
    ) c;
END
$$;

-- The columns of each recorded version and what they are called now (NULL: gone). Redacted, then or now, they cannot be put back.
CREATE FUNCTION threadline.revert_shape(p_table_id integer, p_relation regclass)
RETURNS TABLE (version integer, name_then text, name_now text, is_hidden boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT v.version, c.name, f.name_now, f.name_now IS NOT NULL AND (c.redact IS NOT NULL OR p.redact IS NOT NULL)
    FROM threadline.readable_version v
    CROSS JOIN LATERAL jsonb_to_recordset(v.columns) AS c (name text, redact text)
    JOIN threadline.column_fate(revert_shape.p_table_id, revert_shape.p_relation) f ON f.version = v.version AND f.name_then = c.name
    LEFT JOIN jsonb_to_recordset(threadline.present_shape(revert_shape.p_relation)) AS p (name text, redact text) ON p.name = f.name_now
    WHERE v.table_id = revert_shape.p_table_id
      AND NOT EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = revert_shape.p_relation AND a.attname = f.name_now AND a.attgenerated <> '');
END;

-- The key that each version's rows were recorded under, in names of now.
CREATE FUNCTION threadline.revert_keys(p_table_id integer, p_relation regclass) RETURNS TABLE (version integer, key_columns name[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH fate AS MATERIALIZED (
        SELECT f.version, f.name_then, f.name_now FROM threadline.column_fate(revert_keys.p_table_id, revert_keys.p_relation) f
    )
    SELECT v.version, ARRAY(SELECT f.name_now::name
                            FROM unnest(v.key_columns) WITH ORDINALITY AS k (name, n)
                            LEFT JOIN fate f ON f.version = v.version AND f.name_then = k.name
                            ORDER BY k.n)
    FROM threadline.readable_version v
    WHERE v.table_id = revert_keys.p_table_id;
END;

CREATE FUNCTION threadline.revert_history(p_set uuid[]) RETURNS SETOF threadline.revert_change
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE change AS MATERIALIZED (
        SELECT c.*, cardinality(c.key_columns) = 0 AS counted,
               row_number() OVER (ORDER BY x.commit_no, c.statement_no, c.op, c.id) AS place
        FROM threadline.revert_changes(p_set) c
        JOIN (SELECT x.id, x.commit_no FROM threadline.readable_transaction x WHERE x.id = ANY (p_set) OFFSET 0) x ON x.id = c.transaction_id
        WHERE c.op <> 3
    ), placed AS (
        -- A stretch in which one row bore the key. A row that is inserted where one was deleted goes on as that row.
        SELECT b.*, sum(b.begins::integer) OVER (PARTITION BY b.table_id, b.row_key, b.key ORDER BY b.place) AS tenure
        FROM (
            SELECT c.*, coalesce(lag(c.op) OVER (PARTITION BY c.table_id, c.row_key, c.key ORDER BY c.place) = 2, true)
                        OR c.op = 5 AND c.old_key IS NOT NULL AS begins
            FROM change c
            WHERE NOT c.counted
        ) b
    ), tenure AS MATERIALIZED (
        SELECT p.*, min(p.place) OVER t AS tenure_place, min(p.id) OVER t AS first_id
        FROM placed p
        WINDOW t AS (PARTITION BY p.table_id, p.row_key, p.key, p.tenure)
    ), link AS MATERIALIZED (
        SELECT a.tenure_place AS later, d.tenure_place AS earlier
        FROM tenure a
        JOIN tenure d ON d.op = 2 AND d.table_id = a.table_id AND d.key = a.old_key AND d.old_key = a.key
                     AND d.transaction_id = a.transaction_id AND d.statement_no = a.statement_no
        WHERE a.op = 5 AND a.old_key IS NOT NULL
    ), root AS (
        SELECT DISTINCT t.tenure_place, t.tenure_place AS entity
        FROM tenure t
        WHERE NOT EXISTS (SELECT FROM link l WHERE l.later = t.tenure_place)
        UNION ALL
        SELECT l.later, r.entity
        FROM root r
        JOIN link l ON l.earlier = r.tenure_place
    ), entry AS (
        SELECT c.place, c.id, c.table_id, c.schema_version, e.*
        FROM change c
        CROSS JOIN LATERAL (
            SELECT c.row_key, c.key, CASE WHEN c.op <= 1 THEN -1 WHEN c.op = 4 OR c.old_key IS NOT NULL THEN 1 ELSE 0 END,
                   CASE WHEN c.op <= 1 THEN c.old_image ELSE c.new_image END, CASE WHEN c.op <= 1 THEN c.old_exact ELSE c.new_exact END
            UNION ALL
            SELECT threadline.digest_row_key(c.old_key), c.old_key, -1, c.new_image || coalesce(c.old_image, '{}'),
                   threadline.replace_exact(c.new_exact, c.old_image, c.old_exact)
            WHERE c.op = 5 AND c.old_key IS NOT NULL
        ) AS e (row_key, key, step, image, exact)
        WHERE c.counted AND c.op <> 2
    ), balance AS (
        SELECT e.table_id, e.row_key, e.key, sum(e.step) AS copies, max(e.place) AS place, min(e.id) AS first_id, max(e.id) AS id,
               (array_agg(e.schema_version ORDER BY e.place DESC))[1] AS schema_version,
               (array_agg(e.image ORDER BY e.place DESC))[1] AS image,
               (array_agg(e.exact ORDER BY e.place DESC))[1] AS exact
        FROM entry e
        GROUP BY e.table_id, e.row_key, e.key
    ), listed AS (
        SELECT t.place, 0 AS copy, r.entity, t.first_id, t.id, t.table_id, t.row_key, t.key, t.old_key, t.op, t.schema_version,
               t.key_columns, t.old_image, t.old_exact, t.new_image, t.new_exact
        FROM tenure t
        JOIN root r ON r.tenure_place = t.tenure_place
        WHERE t.op <> 2
        UNION ALL
        SELECT b.place, g.copy, NULL, b.first_id, b.id, b.table_id, b.row_key, b.key, NULL, CASE WHEN b.copies > 0 THEN 4 ELSE 1 END, b.schema_version,
               '{}', CASE WHEN b.copies < 0 THEN b.image END, CASE WHEN b.copies < 0 THEN b.exact END,
               CASE WHEN b.copies > 0 THEN b.image END, CASE WHEN b.copies > 0 THEN b.exact END
        FROM balance b
        CROSS JOIN LATERAL generate_series(1, abs(b.copies)::integer) AS g (copy)
    ), numbered AS (
        SELECT l.*, row_number() OVER (ORDER BY l.place, l.table_id, l.key, l.copy)::integer AS n
        FROM listed l
    ), shape AS MATERIALIZED (
        SELECT t.table_id, s.*
        FROM (SELECT DISTINCT c.table_id FROM change c) c
        JOIN threadline.readable_table t ON t.table_id = c.table_id
        CROSS JOIN LATERAL threadline.revert_shape(t.table_id, t.relation) s
        WHERE t.relation IS NOT NULL
    )
    SELECT c.n, CASE WHEN c.entity IS NULL THEN c.n ELSE min(c.n) OVER e END,
           c.entity IS NULL OR c.n = max(c.n) OVER e,
           c.first_id, c.id, c.table_id, c.row_key, c.key, c.old_key, c.op::smallint, c.schema_version, c.key_columns,
           c.old_image, c.old_exact, c.new_image, c.new_exact,
           CASE WHEN c.op = 5 THEN
               ARRAY(SELECT s.name_now FROM shape s
                     WHERE s.table_id = c.table_id AND s.version = c.schema_version AND s.name_now IS NOT NULL AND c.old_image ? s.name_then) END,
           ARRAY(SELECT s.name_now FROM shape s WHERE s.table_id = c.table_id AND s.version = c.schema_version AND s.is_hidden ORDER BY s.name_now),
           ARRAY(SELECT s.name_now FROM shape s WHERE s.table_id = c.table_id AND s.version = c.schema_version AND s.is_hidden
                 AND (c.op <= 1 OR c.op = 5 AND c.old_image ? s.name_then) ORDER BY s.name_now),
           ARRAY(SELECT s.name_then FROM shape s WHERE s.table_id = c.table_id AND s.version = c.schema_version AND s.name_now IS NULL
                 AND (c.op <= 1 OR c.op = 5 AND c.old_image ? s.name_then) ORDER BY s.name_then)
    FROM numbered c
    WINDOW e AS (PARTITION BY c.entity);
END
$$;

-- The columns of a table that can be written, in its order.
CREATE FUNCTION threadline.revert_columns(p_relation regclass) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}')
    FROM pg_attribute a
    WHERE a.attrelid = revert_columns.p_relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
END;

-- An SQL expression: the state of a row whose columns are the given expressions.
CREATE FUNCTION threadline.state_of(p_names text[], p_values text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- num_nulls: a composite value of NULLs is not NULL. %s: what the output function writes, which a cast to text is not for every type.
    SELECT format('jsonb_object(%L::text[], ARRAY[%s]::text[])', state_of.p_names,
                  string_agg(format('CASE num_nulls(%1$s) WHEN 0 THEN format(''%%s'', %1$s) END', v.value), ', ' ORDER BY v.n))
    FROM unnest(state_of.p_values) WITH ORDINALITY AS v (value, n);
END;

-- The states that the images of changes give: before them, of an update in the columns that it changed; or after the last of each row.
-- The row is made as a whole in both cases: types may refuse NULL.
CREATE FUNCTION threadline.revert_states(p_table_id integer, p_relation regclass, p_changes threadline.revert_change[], p_before boolean)
RETURNS TABLE (n integer, state jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
SET datestyle = 'ISO' SET timezone = 'UTC' SET bytea_output = hex SET extra_float_digits = 1 SET quote_all_identifiers = off
AS $$
DECLARE
    v_all constant text[] := ARRAY(SELECT a.attname::text FROM pg_attribute a
                                   WHERE a.attrelid = p_relation AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
    v_names constant text[] := threadline.revert_columns(p_relation);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT q.n, %s - ARRAY(SELECT c.name FROM unnest(%L::text[]) AS c (name) WHERE NOT q.image ? c.name OR c.name = ANY (q.hidden) OR c.name <> ALL (q.changed)) FROM (%s) AS q (n, changed, hidden, image%s)',
        threadline.state_of(v_names, ARRAY(SELECT 'q.c' || array_position(v_all, c.name) FROM unnest(v_names) WITH ORDINALITY AS c (name, n) ORDER BY c.n)),
        v_names,
        threadline.typed_statement(p_table_id, p_relation, CASE
            WHEN p_before THEN
                '(SELECT c.n, c.changed, c.hidden, c.version AS schema_version, CASE WHEN c.op = 5 THEN c.new_image || c.old_image ELSE c.old_image END AS image,
                         CASE WHEN c.op = 5 THEN threadline.replace_exact(c.new_exact, c.old_image, c.old_exact) ELSE c.old_exact END AS exact
                  FROM unnest($1) AS c WHERE c.table_id = $2 AND c.old_image IS NOT NULL) s'
            ELSE
                '(SELECT c.n, NULL::text[] AS changed, c.hidden, c.version AS schema_version, c.new_image AS image, c.new_exact AS exact
                  FROM unnest($1) AS c WHERE c.table_id = $2 AND c.new_image IS NOT NULL AND c.is_last) s' END,
            's.n, s.changed, s.hidden, n.image, '),
        (SELECT string_agg(', c' || g.n, '' ORDER BY g.n) FROM generate_series(1, cardinality(v_all)) AS g (n)))
    USING p_changes, p_table_id;
END
$$;

-- What is to be done, one move for each row that is not already as it was; for the rows p_stepwise one for each change. In
-- reverse order of the history. The changes of a row are undone from the last to the first: what others changed in between, in other
-- columns, stays.
CREATE FUNCTION threadline.revert_moves(p_set uuid[], p_stepwise integer[]) RETURNS SETOF threadline.revert_move
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET quote_all_identifiers = off
AS $$
DECLARE
    v_changes constant threadline.revert_change[] := ARRAY(SELECT c FROM threadline.revert_history(p_set) c ORDER BY c.n);
    v_before jsonb[] := array_fill(NULL::jsonb, ARRAY[cardinality(v_changes)]);
    v_after jsonb[] := v_before;
    v_table record;
    v_state record;
    v_change record;
    v_move threadline.revert_move;
    v_moves threadline.revert_move[] := '{}';
    v_stepwise boolean;
    v_count integer := 0;
BEGIN
    FOR v_table IN
        SELECT t.table_id, t.relation
        FROM (SELECT DISTINCT c.table_id FROM unnest(v_changes) c) c
        JOIN threadline.readable_table t ON t.table_id = c.table_id
        WHERE t.relation IS NOT NULL
    LOOP
        FOR v_state IN SELECT s.n, s.state FROM threadline.revert_states(v_table.table_id, v_table.relation, v_changes, true) s LOOP
            v_before[v_state.n] := v_state.state;
        END LOOP;
        FOR v_state IN SELECT s.n, s.state FROM threadline.revert_states(v_table.table_id, v_table.relation, v_changes, false) s LOOP
            v_after[v_state.n] := v_state.state;
        END LOOP;
    END LOOP;

    FOR v_change IN
        WITH key AS MATERIALIZED (
            SELECT t.table_id, k.version, k.key_columns, first_value(k.key_columns) OVER (PARTITION BY t.table_id ORDER BY k.version DESC) AS newest
            FROM (SELECT DISTINCT c.table_id FROM unnest(v_changes) c) c
            JOIN threadline.readable_table t ON t.table_id = c.table_id
            CROSS JOIN LATERAL threadline.revert_keys(t.table_id, t.relation) k
            WHERE t.relation IS NOT NULL
        )
        SELECT c.n, c.entity, c.is_last, c.first_id, c.id, c.table_id, c.row_key, c.key, c.old_key, c.op, c.key_columns, c.redacted, c.gone,
               t.relation, k.newest, k.key_columns IS DISTINCT FROM k.newest AS other_key, c.entity = ANY (p_stepwise) AS is_stepwise,
               c.n = min(c.n) OVER (PARTITION BY c.entity) AS is_first,
               coalesce(threadline.qualified_name(t.relation), format('%I.%I', t.table_schema, t.table_name)) AS table_name
        FROM unnest(v_changes) c
        JOIN threadline.readable_table t ON t.table_id = c.table_id
        LEFT JOIN key k ON k.table_id = c.table_id AND k.version = c.version
        ORDER BY c.entity, c.n DESC
    LOOP
        IF v_change.is_last THEN
            v_move := NULL;
            v_move.entity := v_change.entity;
            v_move.table_id := v_change.table_id;
            v_move.relation := v_change.relation;
            v_move.table_name := v_change.table_name;
            v_move.key_columns := v_change.newest;
            v_move.counted := cardinality(v_change.key_columns) = 0;
            v_move.other_key := v_change.other_key;
            v_move.row_key := v_change.row_key;
            v_move.log_key := v_change.key;
            v_move.first_id := v_change.first_id;
            v_move.last_id := v_change.id;
            v_move.state_to := CASE WHEN v_change.op >= 4 THEN v_after[v_change.n] END;
            v_move.key_to := CASE WHEN v_change.op >= 4 THEN v_change.key END;
            v_move.redacted := '{}';
            v_move.gone := '{}';
        END IF;
        v_stepwise := v_change.is_stepwise;
        IF v_change.is_last OR v_stepwise THEN
            v_move.no := v_change.n;
            v_move.state_from := v_move.state_to;
            v_move.key_from := v_move.key_to;
        END IF;
        IF v_change.op = 4 THEN
            v_move.state_to := NULL;
            v_move.key_to := NULL;
            v_move.redacted := '{}';
            v_move.gone := '{}';
        ELSIF v_change.op <= 1 THEN
            v_move.state_to := v_before[v_change.n];
            v_move.key_to := v_change.key;
            v_move.redacted := v_change.redacted;
            v_move.gone := v_change.gone;
        ELSE
            v_move.state_to := v_move.state_to || coalesce(v_before[v_change.n], '{}');
            v_move.key_to := CASE WHEN v_move.key_to IS NOT NULL THEN coalesce(v_change.old_key, v_change.key) END;
            v_move.redacted := ARRAY(SELECT c.name FROM unnest(v_move.redacted || v_change.redacted) AS c (name) GROUP BY c.name ORDER BY c.name);
            v_move.gone := ARRAY(SELECT c.name FROM unnest(v_move.gone || v_change.gone) AS c (name) GROUP BY c.name ORDER BY c.name);
        END IF;
        IF (v_change.is_first OR v_stepwise)
           AND (v_move.relation IS NULL
                OR (v_move.state_from IS NULL) <> (v_move.state_to IS NULL)
                OR v_move.state_from || v_move.state_to <> v_move.state_from
                OR v_move.state_to IS NOT NULL AND cardinality(v_move.redacted) > 0) THEN
            v_move.table_pk := threadline.key_object(CASE WHEN v_move.relation IS NULL OR v_move.other_key THEN v_change.key_columns ELSE v_move.key_columns END,
                                                     coalesce(v_move.key_from, v_move.key_to, v_change.key));
            v_moves := v_moves || v_move;
        END IF;
    END LOOP;

    FOR v_move IN SELECT m.* FROM unnest(v_moves) m ORDER BY m.no DESC LOOP
        v_count := v_count + 1;
        v_move.no := v_count;
        RETURN NEXT v_move;
    END LOOP;
END
$$;

-- Taking back what transactions did: in which order, and the statements.

-- What a state has in columns, or NULL when the row is not there or one of them is NULL or unknown: nothing refers to that.
CREATE FUNCTION threadline.state_values(p_state jsonb, p_columns text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN count(*) = count(state_values.p_state ->> c.name) THEN array_agg(state_values.p_state ->> c.name ORDER BY c.n) END
    FROM unnest(state_values.p_columns) WITH ORDINALITY AS c (name, n);
END;

-- The foreign keys from or to tables. A partition's are its table's.
CREATE FUNCTION threadline.revert_foreign_keys(p_relations oid[])
RETURNS TABLE (id oid, name text, child oid, parent oid, child_columns text[], parent_columns text[], operators oid[], follows_update boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT k.oid, k.conname::text, k.conrelid, k.confrelid, threadline.column_names(k.conrelid, k.conkey)::text[], threadline.column_names(k.confrelid, k.confkey)::text[],
           k.conpfeqop, k.confupdtype IN ('c', 'n', 'd')
    FROM pg_constraint k
    WHERE k.contype = 'f' AND k.conparentid = 0
      -- Those over periods, and those that are not enforced (PostgreSQL 18), hold nothing by equality.
      AND NOT to_jsonb(k) @> '{"conperiod": true}' AND NOT to_jsonb(k) @> '{"conenforced": false}'
      AND (k.conrelid = ANY (revert_foreign_keys.p_relations) OR k.confrelid = ANY (revert_foreign_keys.p_relations));
END;

-- The unique indexes of tables over plain columns, of all rows; others show in the rehearsal.
CREATE FUNCTION threadline.revert_unique_keys(p_relations oid[])
RETURNS TABLE (id oid, name text, relation oid, columns text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT i.indexrelid, c.relname::text, i.indrelid,
           threadline.column_names(i.indrelid, (string_to_array(i.indkey::text, ' ')::int2[])[1:i.indnkeyatts])::text[]
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = ANY (revert_unique_keys.p_relations)
      AND i.indisunique AND NOT i.indisexclusion AND i.indislive AND i.indexprs IS NULL AND i.indpred IS NULL;
END;

-- What a move does to the values that a foreign key or unique index looks at; role: child, parent or unique.
CREATE TYPE threadline.revert_handle AS (
    no             integer,
    entity         integer,
    id             oid,
    role           text,
    was            text[],
    becomes        text[],
    goes           boolean,
    follows_update boolean
);

CREATE FUNCTION threadline.revert_handles(p_moves threadline.revert_move[]) RETURNS SETOF threadline.revert_handle
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_relations constant oid[] := ARRAY(SELECT DISTINCT m.relation::oid FROM unnest(p_moves) m WHERE m.relation IS NOT NULL);
BEGIN
    RETURN QUERY
    SELECT h.*
    FROM (
        SELECT m.no, m.entity, k.id, k.role, threadline.state_values(m.state_from, k.columns) AS was,
               threadline.state_values(m.state_to, k.columns) AS becomes, m.state_to IS NULL, k.follows_update
        FROM (
            SELECT f.id, 'child' AS role, f.child AS relation, f.child_columns AS columns, f.follows_update FROM threadline.revert_foreign_keys(v_relations) f
            UNION ALL
            SELECT f.id, 'parent', f.parent, f.parent_columns, f.follows_update FROM threadline.revert_foreign_keys(v_relations) f
            UNION ALL
            SELECT u.id, 'unique', u.relation, u.columns, false FROM threadline.revert_unique_keys(v_relations) u
        ) k
        JOIN unnest(p_moves) m ON m.relation = k.relation
    ) h
    WHERE h.was IS DISTINCT FROM h.becomes;
END
$$;

-- Which move must come before which: who refers to a row leaves before the row goes and comes after the row has come, a unique value
-- is left before it is taken, and one row's moves keep their order. Where a foreign key follows its parent's update, the parent is first.
CREATE FUNCTION threadline.revert_edges(p_moves threadline.revert_move[]) RETURNS TABLE (before integer, after integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH handle AS MATERIALIZED (
        SELECT h.* FROM threadline.revert_handles(p_moves) h
    )
    SELECT c.no, p.no
    FROM handle c
    JOIN handle p ON p.id = c.id AND p.role = 'parent' AND p.was = c.was AND (p.goes OR NOT p.follows_update)
    WHERE c.role = 'child' AND c.entity <> p.entity
    UNION
    SELECT p.no, c.no
    FROM handle c
    JOIN handle p ON p.id = c.id AND p.role = 'parent' AND p.becomes = c.becomes
    WHERE c.role = 'child' AND c.entity <> p.entity
    UNION
    SELECT l.no, a.no
    FROM handle l
    JOIN handle a ON a.id = l.id AND a.role = 'unique' AND a.becomes = l.was
    WHERE l.role = 'unique' AND l.entity <> a.entity
    UNION
    SELECT s.before, s.no
    FROM (SELECT m.no, lag(m.no) OVER (PARTITION BY m.entity ORDER BY m.no) AS before FROM unnest(p_moves) m) s
    WHERE s.before IS NOT NULL;
END
$$;

-- An order of 1 … p_count that keeps edges (given by what comes after, ascending) and is otherwise the given one; those
-- that stand in a circle.
CREATE FUNCTION threadline.revert_order(p_count integer, p_before integer[], p_after integer[], OUT ordered integer[], OUT circular integer[])
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_next integer[] := array_fill(1, ARRAY[p_count + 1]);
    v_end integer[] := array_fill(0, ARRAY[p_count + 1]);
    v_state integer[] := array_fill(0, ARRAY[p_count + 1]);
    v_stack integer[] := array_fill(0, ARRAY[p_count + 1]);
    v_depth integer := 0;
    v_at integer;
    v_other integer;
BEGIN
    ordered := '{}';
    circular := '{}';
    FOR i IN 1..coalesce(cardinality(p_after), 0) LOOP
        IF v_end[p_after[i]] = 0 THEN
            v_next[p_after[i]] := i;
        END IF;
        v_end[p_after[i]] := i;
    END LOOP;
    FOR i IN 1..p_count LOOP
        IF v_state[i] = 0 THEN
            v_depth := 1;
            v_stack[1] := i;
            v_state[i] := 1;
        END IF;
        WHILE v_depth > 0 LOOP
            v_at := v_stack[v_depth];
            IF v_next[v_at] <= v_end[v_at] THEN
                v_other := p_before[v_next[v_at]];
                v_next[v_at] := v_next[v_at] + 1;
                IF v_state[v_other] = 0 THEN
                    v_depth := v_depth + 1;
                    v_stack[v_depth] := v_other;
                    v_state[v_other] := 1;
                ELSIF v_state[v_other] = 1 THEN
                    FOR j IN REVERSE v_depth..1 LOOP
                        circular := circular || v_stack[j];
                        EXIT WHEN v_stack[j] = v_other;
                    END LOOP;
                END IF;
            ELSE
                v_state[v_at] := 2;
                v_depth := v_depth - 1;
                ordered := ordered || v_at;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

-- The equality that a column's values are told apart by, as an operator that needs no search_path: the types of the
-- catalog have theirs in it, and what has none of its own is compared as what it is made of.
CREATE FUNCTION threadline.equality(p_type oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce((
        SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM pg_opclass c
        JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
        JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype AND a.amopstrategy = 3
        JOIN pg_operator o ON o.oid = a.amopopr
        JOIN pg_namespace n ON n.oid = o.oprnamespace
        WHERE c.opcintype = equality.p_type AND c.opcdefault AND n.nspname <> 'pg_catalog'
        LIMIT 1), '=');
END;

-- A table as statements name it. Old-style children are tables of their own.
CREATE FUNCTION threadline.revert_target(p_relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN c.relkind <> 'p' AND c.relhassubclass THEN 'ONLY ' ELSE '' END || threadline.qualified_name(c.oid)
    FROM pg_class c WHERE c.oid = revert_target.p_relation;
END;

CREATE FUNCTION threadline.literal_of(value text, type text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN literal_of.value IS NULL THEN 'NULL' ELSE pg_catalog.format('%L::%s', literal_of.value, literal_of.type) END;

-- The statements of moves. INSERT names the columns that are known, UPDATE sets those that change; a value is the text that its type's
-- output function wrote.
CREATE FUNCTION threadline.revert_statements(p_moves threadline.revert_move[]) RETURNS TABLE (no integer, statement text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET quote_all_identifiers = off
AS $$
BEGIN
    RETURN QUERY
    WITH relation AS MATERIALIZED (
        SELECT r.relation, threadline.revert_target(r.relation) AS target, threadline.qualified_name(r.relation) AS name, r.relkind = 'p' AS partitioned,
               bool_or(a.attidentity = 'a') AS always
        FROM (SELECT DISTINCT m.relation, c.relkind FROM unnest(p_moves) m JOIN pg_class c ON c.oid = m.relation) r
        JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped
        GROUP BY r.relation, r.relkind
    ), col AS MATERIALIZED (
        SELECT r.relation, a.attname::text AS name, a.attnum, format_type(a.atttypid, a.atttypmod) AS type, threadline.equality(a.atttypid) AS equals
        FROM relation r
        JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped
    ), value AS (
        SELECT m.no, c.name, c.attnum, m.state_to ? c.name AS is_written,
               m.state_to ->> c.name IS DISTINCT FROM m.state_from ->> c.name OR NOT m.state_from ? c.name AS differs,
               c.name = ANY (m.key_columns) AS is_key, m.state_from ? c.name AS is_known,
               threadline.literal_of(m.state_to ->> c.name, c.type) AS after,
               format('%I %s %s', c.name, c.equals, threadline.literal_of(m.state_from ->> c.name, c.type)) AS condition
        FROM unnest(p_moves) m
        JOIN col c ON c.relation = m.relation
    ), part AS (
        SELECT v.no,
               string_agg(quote_ident(v.name), ', ' ORDER BY v.attnum) FILTER (WHERE v.is_written) AS columns,
               string_agg(v.after, ', ' ORDER BY v.attnum) FILTER (WHERE v.is_written) AS written,
               string_agg(format('%I = %s', v.name, v.after), ', ' ORDER BY v.attnum) FILTER (WHERE v.is_written AND v.differs) AS changes,
               CASE WHEN bool_and(v.is_known) FILTER (WHERE v.is_key)
                    THEN string_agg(v.condition, ' AND ' ORDER BY v.attnum) FILTER (WHERE v.is_key) END AS condition
        FROM value v
        GROUP BY v.no
    )
    SELECT m.no,
           CASE WHEN m.state_from IS NULL AND m.state_to IS NOT NULL THEN
                    format('INSERT INTO %s (%s)%s VALUES (%s)', r.name, p.columns, CASE WHEN r.always THEN ' OVERRIDING SYSTEM VALUE' END, p.written)
                WHEN m.state_to IS NULL AND m.counted THEN
                    format('DELETE FROM %1$s WHERE %2$s = (SELECT %3$s FROM %1$s AS t CROSS JOIN LATERAL threadline.row_key(t.*) AS k WHERE k.key = %4$L LIMIT 1 FOR UPDATE OF t)',
                           r.target, CASE WHEN r.partitioned THEN '(tableoid, ctid)' ELSE 'ctid' END, CASE WHEN r.partitioned THEN 't.tableoid, t.ctid' ELSE 't.ctid' END, m.key_from)
                WHEN p.condition IS NULL THEN NULL
                WHEN m.state_to IS NULL THEN format('DELETE FROM %s WHERE %s', r.target, p.condition)
                WHEN p.changes IS NOT NULL THEN format('UPDATE %s SET %s WHERE %s', r.target, p.changes, p.condition) END
    FROM unnest(p_moves) m
    JOIN relation r ON r.relation = m.relation
    JOIN part p ON p.no = m.no;
END
$$;

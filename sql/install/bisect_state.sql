-- The tables that incident_bisect and invariants of kind query go through: in temporary tables, one a table that the predicate names, behind temporary views of the
-- tables' names; what each transaction of the window made of their rows stands beside, typed, and is applied in commit order.
-- Everything made here goes with pg_temp.threadline_bisect_transaction.

-- A table that the predicate names. prefix begins no column's name; columns are its columns as a list.
CREATE TYPE threadline.bisect_table AS (
    n               integer,
    table_id        integer,
    relation        regclass,
    prefix          text,
    columns         text,
    counted         boolean,
    first_change_id bigint,
    since           timestamptz,
    purged          boolean,
    has_marks       boolean,
    row_count       bigint
);

-- The transactions of the window.
CREATE FUNCTION threadline.bisect_window(p_good timestamptz, p_bad timestamptz, p_horizon bigint, p_end bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    INSERT INTO pg_temp.threadline_bisect_transaction
    SELECT x.commit_no, x.id, x.committed_at, x.actor_ref, lower(x.change_ids)
    FROM threadline.transactions_between(p_horizon, p_good, p_end, p_bad) x;
    CREATE INDEX ON pg_temp.threadline_bisect_transaction (commit_no);
    ANALYZE pg_temp.threadline_bisect_transaction;
END
$$;

-- What the transactions of the window made of a table's rows, a statement with parameters $1 table_id, $2 first and $3 last id. A row of
-- threadline_bisect_change_n is a row's state after a transaction: copies 1 or 0, or how many came or went of a row without a key. Without
-- a row_id it says that all rows were gone before: a TRUNCATE mark, or a baseline, which has its own changes for all that are there.
CREATE FUNCTION threadline.bisect_change_statement(p_table threadline.bisect_table) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT format($statement$
        WITH recorded AS MATERIALIZED (
            SELECT x.commit_no, c.table_pk, c.op, c.old_key, c.statement_no, c.id, c.schema_version, c.new_image, c.new_exact
            FROM pg_temp.threadline_bisect_transaction x
            JOIN threadline.readable_change c ON c.transaction_id = x.id
            LEFT JOIN (SELECT b.transaction_id, max(b.first_change_id) AS first_change_id FROM threadline.readable_baseline b
                       WHERE b.table_id = $1 GROUP BY b.transaction_id) b ON b.transaction_id = x.id
            WHERE c.table_id = $1 AND c.id >= $2 AND c.id < $3 AND c.id >= coalesce(b.first_change_id, c.id)
        ), mark AS (
            SELECT r.commit_no, max(r.statement_no) AS statement_no FROM recorded r WHERE r.table_pk IS NULL GROUP BY r.commit_no
        ), net AS (%3$s
        ), gone AS (
            INSERT INTO pg_temp.threadline_bisect_change_%1$s (%2$I, %4$I, %5$I)
            SELECT n.commit_no, n.copies, n.table_pk FROM net n WHERE n.copies <= 0
            UNION ALL
            SELECT m.commit_no, 0, NULL FROM mark m
            UNION ALL
            SELECT x.commit_no, 0, NULL
            FROM pg_temp.threadline_bisect_transaction x JOIN threadline.readable_baseline b ON b.transaction_id = x.id AND b.table_id = $1
        )
        INSERT INTO pg_temp.threadline_bisect_change_%1$s
        SELECT q.commit_no, q.copies, q.table_pk, t.*
        FROM (SELECT n.commit_no, n.copies, n.table_pk, n.schema_version, n.image, n.exact FROM net n WHERE n.copies > 0 OFFSET 0) q
        CROSS JOIN LATERAL (%6$s) t
        $statement$,
        (p_table).n, (p_table).prefix || 'commit_no',
        CASE WHEN (p_table).counted THEN $net$
            SELECT r.commit_no, r.table_pk,
                   sum(CASE WHEN r.op <= 2 THEN -1 WHEN r.op <> 5 OR r.old_key IS NOT NULL THEN 1 ELSE 0 END)::integer AS copies,
                   (array_agg(r.schema_version ORDER BY r.statement_no DESC, r.id DESC) FILTER (WHERE r.op >= 3))[1] AS schema_version,
                   (array_agg(r.new_image ORDER BY r.statement_no DESC, r.id DESC) FILTER (WHERE r.op >= 3))[1] AS image,
                   (array_agg(r.new_exact ORDER BY r.statement_no DESC, r.id DESC) FILTER (WHERE r.op >= 3))[1] AS exact
            FROM recorded r
            LEFT JOIN mark m ON m.commit_no = r.commit_no
            WHERE r.table_pk IS NOT NULL AND (m.statement_no IS NULL OR r.statement_no >= m.statement_no)
            GROUP BY r.commit_no, r.table_pk$net$
        ELSE $net$
            SELECT DISTINCT ON (r.commit_no, r.table_pk) r.commit_no, r.table_pk,
                   CASE WHEN r.op >= 3 AND (m.statement_no IS NULL OR r.statement_no >= m.statement_no) THEN 1 ELSE 0 END AS copies,
                   r.schema_version, r.new_image AS image, r.new_exact AS exact
            FROM recorded r
            LEFT JOIN mark m ON m.commit_no = r.commit_no
            WHERE r.table_pk IS NOT NULL
            ORDER BY r.commit_no, r.table_pk, r.statement_no DESC, r.op DESC, r.id DESC$net$
        END,
        (p_table).prefix || 'copies', (p_table).prefix || 'row_id',
        threadline.typed_statement((p_table).table_id, (p_table).relation, '(SELECT q.schema_version, q.image, q.exact) s'))
$function$;

-- Makes a table's state at good, what the window did to it, and the view that stands before it.
CREATE FUNCTION threadline.bisect_load(p_table threadline.bisect_table, p_horizon bigint) RETURNS threadline.bisect_table
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
-- Texts are read in the settings they were written in.
SET jit = off SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
AS $$
DECLARE
    v_state constant text := format('pg_temp.threadline_bisect_state_%s', p_table.n);
    v_change constant text := format('pg_temp.threadline_bisect_change_%s', p_table.n);
    v_row_id constant text := quote_ident(p_table.prefix || 'row_id');
    v_commit_no constant text := quote_ident(p_table.prefix || 'commit_no');
    v_copies constant text := quote_ident(p_table.prefix || 'copies');
    v_view text;
    v_key text;
    v_first bigint;
    v_end bigint;
BEGIN
    SELECT format('pg_temp.%I', c.relname) INTO v_view FROM pg_class c WHERE c.oid = p_table.relation;
    EXECUTE format('CREATE TABLE %s AS SELECT NULL::jsonb AS %s, t.* FROM ONLY %s AS t WITH NO DATA', v_state, v_row_id, threadline.qualified_name(p_table.relation));
    PERFORM threadline.drop_together(v_state::regclass, 'pg_temp.threadline_bisect_transaction'::regclass);
    EXECUTE format('CREATE TABLE %s AS SELECT NULL::bigint AS %s, NULL::integer AS %s, s.* FROM %s AS s WITH NO DATA', v_change, v_commit_no, v_copies, v_state);
    PERFORM threadline.drop_together(v_change::regclass, 'pg_temp.threadline_bisect_transaction'::regclass);
    EXECUTE format('CREATE TEMPORARY VIEW %s AS SELECT %s FROM %s', v_view, p_table.columns, v_state);
    PERFORM threadline.drop_together(v_view::regclass, 'pg_temp.threadline_bisect_transaction'::regclass);

    EXECUTE format('INSERT INTO %s SELECT q.table_pk, t.* FROM threadline.table_state($1, $2, $3) q CROSS JOIN LATERAL (%s) t',
                   v_state, threadline.typed_statement(p_table.table_id, p_table.relation, '(SELECT q.schema_version, q.image, q.exact) s'))
    USING p_table.table_id, p_table.first_change_id, p_horizon;
    GET DIAGNOSTICS p_table.row_count = ROW_COUNT;
    -- By hash, for a key may be longer than a btree takes with its names.
    EXECUTE format('CREATE INDEX ON %s USING hash (%s)', v_state, v_row_id);
    -- A column renamed since the last change is not found by its recorded name.
    SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.n) INTO v_key
    FROM threadline.readable_table t
    CROSS JOIN LATERAL unnest(t.key_columns) WITH ORDINALITY AS k (name, n)
    LEFT JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = k.name AND NOT a.attisdropped
    WHERE t.table_id = p_table.table_id
    HAVING bool_and(a.attname IS NOT NULL);
    IF v_key IS NOT NULL THEN
        EXECUTE format('CREATE INDEX ON %s (%s)', v_state, v_key);
    END IF;
    EXECUTE format('ANALYZE %s', v_state);

    -- What is older than the baseline is in no state: who begins there has no use for it either.
    SELECT greatest(min(x.first_id), p_table.first_change_id), max(x.commit_no) INTO v_first, v_end FROM pg_temp.threadline_bisect_transaction x;
    EXECUTE threadline.bisect_change_statement(p_table) USING p_table.table_id, v_first, v_end;
    EXECUTE format('CREATE INDEX ON %s (%s)', v_change, v_commit_no);
    EXECUTE format('ANALYZE %s', v_change);
    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %s IS NULL)', v_change, v_row_id) INTO p_table.has_marks;
    RETURN p_table;
END
$$;

-- Which transactions touched which of the tables, in commit order, and how many rows of each.
CREATE FUNCTION threadline.bisect_steps(p_tables threadline.bisect_table[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE 'CREATE TEMPORARY TABLE threadline_bisect_step AS SELECT c.commit_no, array_agg(c.n ORDER BY c.n) AS tables, array_agg(c.row_count ORDER BY c.n) AS row_counts FROM ('
        || (SELECT string_agg(format('SELECT %1$I AS commit_no, %2$s AS n, count(%3$I) AS row_count FROM pg_temp.threadline_bisect_change_%2$s GROUP BY %1$I', t.prefix || 'commit_no', t.n, t.prefix || 'row_id'), ' UNION ALL ')
            FROM unnest(p_tables) t)
        || ') c GROUP BY c.commit_no';
    PERFORM threadline.drop_together('pg_temp.threadline_bisect_step'::regclass, 'pg_temp.threadline_bisect_transaction'::regclass);
END
$$;

-- Takes tables' state over the transactions with commit_no in (p_after, p_upto]; returns how many rows came or went.
CREATE FUNCTION threadline.bisect_apply(p_tables threadline.bisect_table[], p_which integer[], p_after bigint, p_upto bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_table threadline.bisect_table;
    v_state text;
    v_changes text;
    v_row_id text;
    v_copies text;
    v_net text;
    v_after bigint;
    v_mark bigint;
    v_count bigint;
    v_total bigint := 0;
BEGIN
    FOREACH v_table IN ARRAY p_tables LOOP
        CONTINUE WHEN v_table.n <> ALL (p_which);
        v_state := format('pg_temp.threadline_bisect_state_%s', v_table.n);
        v_row_id := quote_ident(v_table.prefix || 'row_id');
        v_copies := quote_ident(v_table.prefix || 'copies');
        v_net := quote_ident(v_table.prefix || 'net');
        v_changes := format('SELECT * FROM pg_temp.threadline_bisect_change_%s WHERE %I > $1 AND %2$I <= $2', v_table.n, v_table.prefix || 'commit_no');
        v_after := p_after;
        IF v_table.has_marks THEN
            EXECUTE format('SELECT max(c.%I) FROM (%s) c WHERE c.%s IS NULL', v_table.prefix || 'commit_no', v_changes, v_row_id)
            INTO v_mark USING p_after, p_upto;
            IF v_mark IS NOT NULL THEN
                EXECUTE format('DELETE FROM %s', v_state);
                GET DIAGNOSTICS v_count = ROW_COUNT;
                v_total := v_total + v_count;
                v_after := v_mark - 1;
            END IF;
        END IF;
        IF v_table.counted THEN
            EXECUTE format('DELETE FROM %1$s WHERE ctid IN (
                                SELECT d.place
                                FROM (SELECT s.ctid AS place, g.copies, row_number() OVER (PARTITION BY s.%2$s) AS n
                                      FROM %1$s s
                                      JOIN (SELECT c.%2$s, sum(c.%3$s) AS copies FROM (%4$s) c GROUP BY c.%2$s HAVING sum(c.%3$s) < 0) g ON g.%2$s = s.%2$s) d
                                WHERE d.n <= -d.copies)',
                           v_state, v_row_id, v_copies, v_changes)
            USING v_after, p_upto;
        ELSE
            EXECUTE format('DELETE FROM %s s USING (%s) c WHERE s.%s = c.%3$s', v_state, v_changes, v_row_id) USING v_after, p_upto;
        END IF;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_total := v_total + v_count;
        EXECUTE format('INSERT INTO %1$s SELECT l.%2$s, %3$s FROM (SELECT DISTINCT ON (c.%2$s) c.*, %4$s AS %5$s FROM (%6$s) c WHERE c.%2$s IS NOT NULL ORDER BY c.%2$s, %7$s DESC) l CROSS JOIN LATERAL generate_series(1, l.%5$s)',
                       v_state, v_row_id,
                       (SELECT string_agg('l.' || quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                        WHERE a.attrelid = v_table.relation AND a.attnum > 0 AND NOT a.attisdropped),
                       CASE WHEN v_table.counted THEN format('sum(c.%s) OVER (PARTITION BY c.%s)', v_copies, v_row_id) ELSE format('c.%s::bigint', v_copies) END,
                       v_net, v_changes,
                       CASE WHEN v_table.counted THEN 'c.' || v_copies ELSE format('c.%I', v_table.prefix || 'commit_no') END)
        USING v_after, p_upto;
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_total := v_total + v_count;
    END LOOP;
    RETURN v_total;
END
$$;

-- Leaves behind the versions of rows that are over: nothing else could while the transaction lasts.
CREATE FUNCTION threadline.bisect_compact(p_tables threadline.bisect_table[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table threadline.bisect_table;
    v_state text;
BEGIN
    FOREACH v_table IN ARRAY p_tables LOOP
        v_state := format('pg_temp.threadline_bisect_state_%s', v_table.n);
        EXECUTE format('CREATE TEMPORARY TABLE threadline_bisect_kept AS TABLE %s', v_state);
        EXECUTE format('TRUNCATE %s', v_state);
        EXECUTE format('INSERT INTO %s TABLE pg_temp.threadline_bisect_kept', v_state);
        EXECUTE 'DROP TABLE pg_temp.threadline_bisect_kept';
        EXECUTE format('ANALYZE %s', v_state);
    END LOOP;
END
$$;

-- Tables without a key, captured with {"key": "full_row"}: key_columns is empty, and a row's key is the digest of what is
-- recorded of it, masked values left out. Identical rows have one key and cannot be told apart; they are counted. How often
-- a row is there is how often it arrived less how often it left since the baseline, and a key that was left more often
-- than arrived at shows that something went unrecorded.
-- Digests of one row before and after a change of the table's shape differ. From the first change in a new shape to the next baseline
-- the counts say nothing: a gap, shape_changed, read from the recorded shapes (readable_gap in views.sql).

CREATE FUNCTION threadline.is_full_row(p_table_id integer) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT pg_catalog.cardinality(t.key_columns) = 0
        FROM threadline.readable_table t WHERE t.table_id = is_full_row.p_table_id);
END
$$;

-- Whether it was so when a change was recorded.
CREATE FUNCTION threadline.was_full_row(p_table_id integer, p_change_id bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT coalesce((
            SELECT pg_catalog.cardinality(v.key_columns) = 0
            FROM threadline.readable_version v
            WHERE v.table_id = was_full_row.p_table_id AND v.from_change_id <= was_full_row.p_change_id
            ORDER BY v.version DESC
            LIMIT 1), threadline.is_full_row(was_full_row.p_table_id)));
END
$$;

-- Whether the key by which a table's rows are known now was another at a horizon: a row is not found there by it.
CREATE FUNCTION threadline.key_was_other(p_table_id integer, p_horizon bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT coalesce((
            SELECT v.key_columns <> t.key_columns
            FROM threadline.readable_table t
            JOIN threadline.readable_version v ON v.table_id = t.table_id
            WHERE t.table_id = key_was_other.p_table_id AND t.rekeyed AND v.from_change_id <= key_was_other.p_horizon
            ORDER BY v.version DESC
            LIMIT 1), false));
END
$$;

-- Whether rows were known by another key, or by a digest of other columns, at any time since p_since.
CREATE FUNCTION threadline.identity_changed(p_table_id integer, p_since timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT EXISTS (
            SELECT
            FROM threadline.readable_table t
            CROSS JOIN LATERAL (
                SELECT v.key_columns, threadline.digested_shape(v.columns) AS shape, lead(v.recorded_at) OVER (ORDER BY v.version) AS ended
                FROM threadline.readable_version v WHERE v.table_id = t.table_id
            ) v
            WHERE t.table_id = identity_changed.p_table_id
              AND (t.rekeyed OR pg_catalog.cardinality(t.key_columns) = 0)
              AND (v.ended IS NULL OR v.ended > identity_changed.p_since)
              AND (v.key_columns <> t.key_columns
                   OR pg_catalog.cardinality(t.key_columns) = 0
                      AND v.shape <> threadline.digested_shape(threadline.present_shape(t.relation)))));
END
$$;

-- A recorded change of such a table up to a horizon and since its last mark, with what it adds to the copies of its key.
CREATE FUNCTION threadline.counted_change(p_table_id integer, p_from bigint, p_horizon bigint, p_viewer threadline.viewer DEFAULT NULL)
RETURNS TABLE (id bigint, row_key bigint, key text, step integer, op smallint, commit_no bigint, statement_no integer,
               schema_version integer, table_pk jsonb, new_image jsonb, new_exact jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT c.id, c.row_key, c.key,
           CASE WHEN c.op <= 2 THEN -1 WHEN c.op <> 5 OR c.old_key IS NOT NULL THEN 1 ELSE 0 END,
           c.op, x.commit_no, c.statement_no, c.schema_version, c.table_pk, c.new_image, c.new_exact
    FROM threadline.readable_change c
    JOIN threadline.readable_transaction x ON x.id = c.transaction_id
    WHERE c.table_id = counted_change.p_table_id
      AND c.id >= counted_change.p_from AND c.id < counted_change.p_horizon
      AND x.commit_no <= counted_change.p_horizon
      AND threadline.is_seen(counted_change.p_viewer, x.id, x.origin, x.xid)
      AND (c.op <> 0 OR c.old_image IS NOT NULL)
      AND NOT EXISTS (SELECT FROM threadline.last_mark(counted_change.p_table_id, counted_change.p_from, counted_change.p_horizon, counted_change.p_viewer) m
                      WHERE (x.commit_no, c.statement_no) < (m.commit_order, m.statement_no));
END;

-- How many copies of a row there are at a horizon, the lowest that number ever was, and the newest change that left a row.
CREATE FUNCTION threadline.row_count(p_table_id integer, p_row_key bigint, p_key text, p_from bigint, p_horizon bigint,
                                     OUT copies bigint, OUT lowest bigint, OUT change_id bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    SELECT coalesce(sum(r.step), 0), coalesce(min(r.running), 0),
           (array_agg(r.id ORDER BY r.commit_no DESC, r.statement_no DESC, r.op DESC, r.id DESC) FILTER (WHERE r.op >= 3))[1]
    INTO copies, lowest, change_id
    FROM (
        SELECT c.*, sum(c.step) OVER (ORDER BY c.commit_no, c.statement_no, c.op, c.id) AS running
        FROM threadline.counted_change(p_table_id, p_from, p_horizon) c
        WHERE c.row_key = p_row_key AND c.key = p_key COLLATE "C"
    ) r;
END
$$;

-- Whether some key was left more often than arrived at.
CREATE FUNCTION threadline.counts_fail(p_table_id integer, p_from bigint, p_horizon bigint, p_viewer threadline.viewer DEFAULT NULL) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (
        SELECT
        FROM (SELECT sum(c.step) OVER (PARTITION BY c.row_key, c.key ORDER BY c.commit_no, c.statement_no, c.op, c.id) AS running
              FROM threadline.counted_change(counts_fail.p_table_id, counts_fail.p_from, counts_fail.p_horizon, counts_fail.p_viewer) c) r
        WHERE r.running < 0);
END;

-- The rows of such a table at a horizon, each as often as it was there.
CREATE FUNCTION threadline.counted_state(p_table_id integer, p_from bigint, p_horizon bigint, p_viewer threadline.viewer DEFAULT NULL)
RETURNS TABLE (table_pk jsonb, schema_version integer, image jsonb, exact jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT s.table_pk, s.schema_version, s.new_image, s.new_exact
    FROM (
        SELECT c.table_pk, c.schema_version, c.new_image, c.new_exact, sum(c.step) OVER (PARTITION BY c.row_key, c.key) AS copies,
               row_number() OVER (PARTITION BY c.row_key, c.key
                                  ORDER BY c.op >= 3 DESC, c.commit_no DESC, c.statement_no DESC, c.op DESC, c.id DESC) AS n
        FROM threadline.counted_change(counted_state.p_table_id, counted_state.p_from, counted_state.p_horizon, counted_state.p_viewer) c
    ) s
    CROSS JOIN LATERAL generate_series(1, s.copies)
    WHERE s.n = 1;
END;

-- Whether a digest made now need not match those recorded in the shape in force at a horizon (NULL: the last recorded one).
CREATE FUNCTION threadline.shape_differs(p_table_id integer, p_relation regclass, p_horizon bigint) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT coalesce((
            SELECT pg_catalog.cardinality(v.key_columns) > 0
                   OR threadline.digested_shape(v.columns) <> threadline.digested_shape(threadline.present_shape(shape_differs.p_relation))
            FROM threadline.readable_version v
            WHERE v.table_id = shape_differs.p_table_id
              AND (shape_differs.p_horizon IS NULL OR v.from_change_id <= shape_differs.p_horizon)
            ORDER BY v.version DESC
            LIMIT 1), false));
END
$$;

-- key_lookup for every key that the public functions take: of a table without a key also a whole row, as a JSON object.
CREATE FUNCTION threadline.key_given(p_target regclass, p_given text, OUT table_id integer, OUT row_key bigint, OUT key text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_row jsonb;
    v_recorded jsonb;
    v_image jsonb;
    v_alike record;
    v_relation regclass;
    v_missing text;
    v_unknown text;
BEGIN
    key_given.table_id := threadline.table_lookup(p_target);
    IF threadline.is_full_row(key_given.table_id) AND starts_with(ltrim(p_given), '{') THEN
        BEGIN
            v_row := p_given::jsonb;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            v_row := NULL;
        END;
        SELECT t.relation INTO v_relation FROM threadline.readable_table t WHERE t.table_id = key_given.table_id;
        SELECT string_agg(quote_ident(c.name), ', ' ORDER BY c.attnum) FILTER (WHERE coalesce(c.redact, 'path') = 'path' AND NOT v_row ? c.name),
               (SELECT string_agg(quote_ident(k.name), ', ') FROM jsonb_object_keys(v_row) AS k (name)
                WHERE k.name <> ALL (array_agg(c.name))),
               v_row - coalesce(array_agg(c.name) FILTER (WHERE c.redact IN ('exclude', 'mask')), '{}')
        INTO v_missing, v_unknown, v_recorded
        FROM jsonb_to_recordset(threadline.present_shape(v_relation)) AS c (attnum smallint, name text, redact text)
        WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = v_relation AND a.attnum = c.attnum AND a.attgenerated = 'v');
        -- Where a column is called full_row, an object of it alone is a row.
        IF v_missing IS NULL AND v_unknown IS NULL AND v_row IS NOT NULL THEN
            EXECUTE format('SELECT k.row_key, k.key, threadline.row_image(r.*) FROM jsonb_populate_record(NULL::%s, $1) AS r CROSS JOIN LATERAL threadline.row_key(r.*) AS k', v_relation)
            INTO key_given.row_key, key_given.key, v_image
            USING v_recorded;
            IF NOT EXISTS (SELECT FROM threadline.readable_change c
                           WHERE c.table_id = key_given.table_id AND c.row_key = key_given.row_key AND c.key = key_given.key COLLATE "C") THEN
                -- Where JSON loses a part of the row, it is the newest one that looks like this.
                SELECT c.row_key, c.key INTO v_alike
                FROM threadline.readable_change_newest c
                WHERE c.table_id = key_given.table_id AND c.op >= 3 AND c.new_exact IS NOT NULL AND c.new_image::text = v_image::text
                LIMIT 1;
                key_given.row_key := coalesce(v_alike.row_key, key_given.row_key);
                key_given.key := coalesce(v_alike.key, key_given.key);
            END IF;
            RETURN;
        ELSIF v_row IS NOT NULL AND NOT v_row ? 'full_row' THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('wrong row key for table %s', threadline.qualified_name(v_relation)),
                DETAIL = concat_ws(' ', 'The table has no key, so the object must name every recorded column.',
                                   'Missing: ' || v_missing || '.', 'Unknown: ' || v_unknown || '.'),
                HINT = format('SELECT h.* FROM %1$s AS r CROSS JOIN LATERAL threadline.audit_history(%1$L, threadline.row_image(r.*)) AS h;',
                              threadline.qualified_name(v_relation));
        END IF;
    END IF;
    SELECT k.* INTO key_given.table_id, key_given.row_key, key_given.key FROM threadline.key_lookup(p_target, p_given) k;
END
$$;

-- Whether only a new baseline makes the keys recorded and those of now comparable.
CREATE FUNCTION threadline.keys_outdated(p_table_id integer, p_relation regclass) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT (threadline.is_full_row(keys_outdated.p_table_id)
            AND threadline.shape_differs(keys_outdated.p_table_id, keys_outdated.p_relation, NULL))
        OR EXISTS (SELECT FROM threadline.readable_gap g
                   WHERE g.table_id = keys_outdated.p_table_id AND g.reason = 'shape_changed' AND g.until_at = 'infinity');
END;

-- The check of such a table: parameters and result as comparison_statement, with $4 whether its digests are those of the record.
-- The invariants are told of counts: no key is left more often than arrived at (running, break), and each is in the table as
-- often as the history says (compared).
CREATE FUNCTION threadline.counted_comparison_statement(p_relation regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT format($statement$
        WITH mark AS (
            SELECT m.id, CASE WHEN x.id IS NULL THEN m.id ELSE coalesce(x.commit_no, 9223372036854775807) END AS commit_order, m.statement_no
            FROM threadline.readable_mark m
            LEFT JOIN threadline.readable_transaction x ON x.id = m.transaction_id
            WHERE m.table_id = $1 AND m.id >= $2
        ), entry AS (
            SELECT e.key, e.op, e.step, e.image, c.id, c.transaction_id, c.statement_no, c.schema_version,
                   CASE WHEN x.id IS NULL THEN c.id ELSE coalesce(x.commit_no, 9223372036854775807) END AS commit_order
            FROM threadline.readable_change c
            LEFT JOIN threadline.readable_transaction x ON x.id = c.transaction_id
            CROSS JOIN LATERAL (
                SELECT c.key, c.op, CASE WHEN c.op <= 1 THEN -1 WHEN c.op <> 5 OR c.old_key IS NOT NULL THEN 1 ELSE 0 END, coalesce(c.new_image, c.old_image)
                UNION ALL
                SELECT c.old_key, 2, -1, c.new_image || coalesce(c.old_image, '{}')
                WHERE c.old_key IS NOT NULL
            ) AS e (key, op, step, image)
            WHERE c.table_id = $1 AND c.id >= $2 AND c.op <> 2 AND (c.op <> 0 OR c.old_image IS NOT NULL)
        ), dated AS (
            SELECT e.*, (SELECT count(*) FROM mark m WHERE (m.commit_order, m.statement_no) <= (e.commit_order, e.statement_no)) AS marks_before
            FROM entry e
        ), running AS (
            SELECT d.*, sum(d.step) OVER (PARTITION BY d.key, d.marks_before ORDER BY d.commit_order, d.statement_no, d.op, d.id) AS running
            FROM dated d
        ), break AS (
            SELECT r.*
            FROM (SELECT r.*, min(r.running) OVER (PARTITION BY r.key, r.marks_before ORDER BY r.commit_order, r.statement_no, r.op, r.id
                                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS lowest
                  FROM running r) r
            WHERE $3 AND $4 AND r.running < least(r.lowest, 0)
        ), replayed AS (
            SELECT DISTINCT ON (d.key) d.key, d.id, d.transaction_id, d.statement_no, d.commit_order, d.image,
                   coalesce(sum(d.step) FILTER (WHERE d.marks_before = (SELECT count(*) FROM mark m)) OVER (PARTITION BY d.key), 0) AS copies
            FROM dated d
            ORDER BY d.key, d.commit_order DESC, d.statement_no DESC, d.op DESC, d.id DESC
        ), live AS (
            SELECT k.key COLLATE "C" AS key, count(*) AS copies, min(threadline.row_image(t.*)::text)::jsonb AS image
            FROM %1$s t
            CROSS JOIN LATERAL threadline.row_key(t.*) k
            GROUP BY k.key COLLATE "C"
        ), compared AS (
            SELECT coalesce(s.key, l.key) AS key, s.id, s.transaction_id, s.statement_no, s.commit_order,
                   greatest(s.copies, 0) AS in_history, coalesce(l.copies, 0) AS in_table, s.image AS was, l.image AS is_now
            FROM replayed s
            FULL JOIN live l ON l.key = s.key
        ), verdict AS (
            SELECT c.key, c.id, c.transaction_id, c.statement_no, c.commit_order,
                   CASE WHEN c.in_history > 0 THEN c.was END AS state_before, c.is_now AS state_after,
                   CASE WHEN c.in_history > c.in_table THEN 'missing' WHEN $3 THEN 'extra' ELSE 'unrecorded' END AS kind,
                   abs(c.in_table - c.in_history) AS rows,
                   jsonb_build_object('copies', jsonb_build_object('history', c.in_history, 'table', c.in_table))
                   || CASE WHEN c.in_history > 0 AND c.in_table > 0
                           THEN jsonb_build_object('failure_reason', format('copies of this row: %%s in the history, %%s in the table', c.in_history, c.in_table))
                           ELSE '{}' END AS more
            FROM compared c
            WHERE $4 AND coalesce(c.in_history, 0) <> c.in_table
            UNION ALL
            SELECT b.key, b.id, b.transaction_id, b.statement_no, b.commit_order, NULL, b.image, 'discontinuous', 1, '{}'
            FROM break b
        ), total AS (
            SELECT count(*) FILTER (WHERE v.kind <> 'unrecorded') AS violations,
                   coalesce(sum(v.rows) FILTER (WHERE v.kind = 'unrecorded'), 0)::bigint AS unrecorded
            FROM verdict v
        ), listed AS (
            SELECT v.*, row_number() OVER (ORDER BY v.commit_order NULLS LAST, v.statement_no, v.id, v.key, v.kind) AS no
            FROM verdict v
            WHERE v.kind <> 'unrecorded'
            ORDER BY no
            LIMIT 1000
        ), event AS (
            SELECT count(*) FILTER (WHERE e.op <> 2) + (SELECT count(*) FROM mark) AS changes, count(DISTINCT e.transaction_id) AS transactions,
                   array_agg(DISTINCT e.schema_version) AS versions
            FROM entry e
        )
        SELECT event.changes, event.transactions, event.versions, total.violations, total.unrecorded,
               (SELECT coalesce(sum(greatest(r.copies, 0)), 0)::bigint FROM replayed r) AS replayed_rows,
               (SELECT coalesce(sum(l.copies), 0)::bigint FROM live l) AS table_rows,
               (SELECT coalesce(jsonb_agg(threadline.violation_document($1, threadline.digest_row_key(v.key), v.key, v.kind, v.id, v.transaction_id,
                                                                        v.state_before, v.state_after) || v.more ORDER BY v.no), '[]')
                FROM listed v) AS documents
        FROM event CROSS JOIN total
        $statement$,
        (SELECT CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END FROM pg_class c WHERE c.oid = p_relation) || p_relation)
$function$;

-- What became of a table's rows between two times: the net effect of the changes that were committed between them.
-- Only these are read. A row is followed through changes of its key: a tenure is a stretch in which one row bore a key, begun by an
-- arrival there; the tenure that a row left by a change of its key is the parent of the one it went on to.

CREATE TYPE threadline.audit_diff_row AS (
    table_pk       jsonb,
    op             text,
    before         jsonb,
    after          jsonb,
    changed_fields text[],
    changes        integer
);
COMMENT ON TYPE threadline.audit_diff_row IS 'What became of one row between two times.';
COMMENT ON COLUMN threadline.audit_diff_row.table_pk IS 'Key of the row at the later time; of a deleted row the one it had at the earlier time.';
COMMENT ON COLUMN threadline.audit_diff_row.op IS 'insert, update or delete: what one change from the earlier to the later state would be.';
COMMENT ON COLUMN threadline.audit_diff_row.before IS 'The whole row at the earlier time, its columns called as now; NULL for inserts.';
COMMENT ON COLUMN threadline.audit_diff_row.after IS 'The whole row at the later time, its columns called as now; NULL for deletes.';
COMMENT ON COLUMN threadline.audit_diff_row.changed_fields IS 'Updates: the columns that differ, sorted; a redacted one if it was changed at all, since what it became is not known.';
COMMENT ON COLUMN threadline.audit_diff_row.changes IS 'How many recorded changes this sums up; 0 for what only a new baseline tells.';

-- What columns of each recorded version are called now, {"then": "now"}, where that is something else.
CREATE FUNCTION threadline.names_now(p_table_id integer, p_relation regclass) RETURNS TABLE (version integer, names jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT f.version, jsonb_object_agg(f.name_then, f.name_now)
    FROM threadline.column_fate(names_now.p_table_id, names_now.p_relation) f
    WHERE f.name_now <> f.name_then
    GROUP BY f.version;
END;

-- An image with the names of now. A column that is gone keeps its name, unless another has it.
CREATE FUNCTION threadline.renamed_image(image jsonb, names jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT jsonb_object_agg(coalesce(renamed_image.names ->> e.key, e.key), e.value ORDER BY renamed_image.names ? e.key)
        FROM jsonb_each(renamed_image.image) e);

-- The columns that two images of one row differ in, with their exact texts. A column that one lacks counts as NULL there.
CREATE FUNCTION threadline.differing_fields(before jsonb, after jsonb, exact_before jsonb, exact_after jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT coalesce(array_agg(k.name ORDER BY k.name COLLATE "C"), '{}')
        FROM (SELECT jsonb_object_keys(differing_fields.before) UNION SELECT jsonb_object_keys(differing_fields.after)) AS k (name)
        WHERE coalesce((differing_fields.before -> k.name)::text, 'null') <> coalesce((differing_fields.after -> k.name)::text, 'null')
           OR (differing_fields.exact_before ->> k.name) IS DISTINCT FROM (differing_fields.exact_after ->> k.name));

-- The changes of a table by transactions committed in a window of commit numbers, in no order. Whatever has an id within it
-- was committed after its start; of ids before it only those of transactions that were in flight then belong to it. Without the
-- marks of TRUNCATE, which are no row's.
CREATE FUNCTION threadline.window_changes(p_table_id integer, p_low bigint, p_since timestamptz, p_high bigint, p_until timestamptz)
RETURNS TABLE (id bigint, commit_no bigint, statement_no integer, op smallint, key text, old_key text, changed_fields text[], schema_version integer)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH tx AS MATERIALIZED (
        SELECT x.id, x.commit_no, x.change_ids
        FROM threadline.transactions_between(window_changes.p_low, window_changes.p_since, window_changes.p_high, window_changes.p_until) x
    )
    SELECT c.id, x.commit_no, c.statement_no, c.op, c.key, c.old_key, c.changed_fields, c.schema_version
    FROM threadline.readable_change c
    JOIN tx x ON x.id = c.transaction_id
    WHERE c.table_id = window_changes.p_table_id AND c.op <> 2 AND c.table_pk IS NOT NULL
      AND c.id > window_changes.p_low AND c.id < window_changes.p_high
    UNION ALL
    SELECT c.id, x.commit_no, c.statement_no, c.op, c.key, c.old_key, c.changed_fields, c.schema_version
    -- The barrier of the view lets no function through that may tell what it is called with.
    FROM (SELECT x.id, x.commit_no, lower(r.ids) AS first_id, upper(r.ids) AS end_id
          FROM tx x CROSS JOIN LATERAL unnest(x.change_ids) AS r (ids) OFFSET 0) x
    CROSS JOIN LATERAL (
        SELECT c.*
        FROM threadline.readable_change c
        WHERE c.table_id = window_changes.p_table_id AND c.op <> 2 AND c.table_pk IS NOT NULL
          AND c.id >= x.first_id AND c.id < x.end_id AND c.id <= window_changes.p_low AND c.transaction_id = x.id
        OFFSET 0
    ) c
    WHERE x.first_id <= window_changes.p_low;
END;

CREATE FUNCTION threadline.refuse_diff(p_table regclass, p_detail text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'feature_not_supported',
        MESSAGE = format('the rows of table "%s" at the two times cannot be matched', p_table),
        DETAIL = p_detail,
        HINT = format('Compare the two states: SELECT * FROM threadline.audit_table_as_of(%L, ''<time>'');', p_table);
END
$$;

-- Rows of a table without a key have no identity to follow: how many copies of each there are more, or fewer.
CREATE FUNCTION threadline.counted_diff(p_table_id integer, p_low bigint, p_since timestamptz, p_high bigint, p_until timestamptz) RETURNS SETOF threadline.audit_diff_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH entry AS MATERIALIZED (
        SELECT w.id, w.key, CASE WHEN w.op <= 1 THEN -1 WHEN w.op <> 5 OR w.old_key IS NOT NULL THEN 1 ELSE 0 END AS step
        FROM threadline.window_changes(p_table_id, p_low, p_since, p_high, p_until) w
        UNION ALL
        SELECT w.id, w.old_key, -1 FROM threadline.window_changes(p_table_id, p_low, p_since, p_high, p_until) w WHERE w.old_key IS NOT NULL
    ), net AS MATERIALIZED (
        SELECT e.key, sum(e.step) AS copies, count(*) AS changes, max(e.id) FILTER (WHERE sign(e.step) = sign(e.total)) AS sample_id
        FROM (SELECT e.*, sum(e.step) OVER (PARTITION BY e.key) AS total FROM entry e) e
        GROUP BY e.key
        HAVING sum(e.step) <> 0
    ), image AS MATERIALIZED (
        SELECT c.id, c.op, c.old_image, c.new_image
        FROM threadline.readable_change c
        WHERE c.id = ANY (ARRAY(SELECT n.sample_id FROM net n))
    )
    SELECT threadline.key_object('{}', n.key), CASE WHEN n.copies > 0 THEN 'insert' ELSE 'delete' END,
           CASE WHEN n.copies < 0 THEN coalesce(i.new_image, '{}') || i.old_image END,
           CASE WHEN n.copies > 0 THEN i.new_image END,
           NULL::text[], n.changes::integer
    FROM net n
    JOIN image i ON i.id = n.sample_id
    CROSS JOIN LATERAL generate_series(1, abs(n.copies))
    ORDER BY n.key COLLATE "C";
END
$$;

CREATE FUNCTION threadline.keyed_diff(p_table_id integer, p_relation regclass, p_low bigint, p_since timestamptz, p_high bigint, p_until timestamptz, p_base bigint, p_floor bigint, p_mark_commit bigint, p_mark_statement integer)
RETURNS SETOF threadline.audit_diff_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_names constant jsonb := (SELECT jsonb_object_agg(n.version, n.names) FROM threadline.names_now(p_table_id, p_relation) n);
    v_hidden constant text[] := ARRAY(
        SELECT DISTINCT c.name
        FROM threadline.readable_version v CROSS JOIN LATERAL jsonb_to_recordset(v.columns) AS c (name text, redact text)
        WHERE v.table_id = p_table_id AND c.redact IN ('mask', 'path'));
BEGIN
    RETURN QUERY
    WITH RECURSIVE event AS MATERIALIZED (
        SELECT w.id, w.commit_no, w.statement_no, w.op, w.key, w.old_key
        FROM threadline.window_changes(p_table_id, p_low, p_since, p_high, p_until) w
    ), hidden AS MATERIALIZED (
        SELECT w.id, coalesce(v_names -> w.schema_version::text ->> f.name, f.name) AS name
        FROM threadline.window_changes(p_table_id, p_low, p_since, p_high, p_until) w
        CROSS JOIN LATERAL unnest(w.changed_fields) AS f (name)
        WHERE cardinality(v_hidden) > 0 AND f.name = ANY (v_hidden)
    ), entry AS MATERIALIZED (
        SELECT e.id, e.key, e.op, e.commit_no, e.statement_no,
               sum(e.arrival) OVER (PARTITION BY e.key ORDER BY e.commit_no, e.statement_no, e.op, e.id ROWS UNBOUNDED PRECEDING) AS tenure,
               e.op = 5 AND e.arrival = 1 AS has_moved_in
        FROM (
            SELECT e.id, e.key, e.op, e.commit_no, e.statement_no, (e.op = 4 OR e.old_key IS NOT NULL)::integer AS arrival FROM event e
            UNION ALL
            -- What leaves a key sorts before what arrives there by the same statement.
            SELECT e.id, e.old_key, 2::smallint, e.commit_no, e.statement_no, 0 FROM event e WHERE e.old_key IS NOT NULL
        ) e
    ), move AS MATERIALIZED (
        SELECT a.key, a.tenure, d.key AS parent_key, d.tenure AS parent_tenure
        FROM entry a
        JOIN entry d ON d.id = a.id AND d.op = 2
        WHERE a.has_moved_in
    ), tenure AS (
        SELECT t.key, t.tenure, t.key AS first_key, t.tenure AS first_tenure
        FROM (SELECT DISTINCT e.key, e.tenure FROM entry e) t
        WHERE NOT EXISTS (SELECT FROM move m WHERE m.key = t.key AND m.tenure = t.tenure)
        UNION ALL
        SELECT m.key, m.tenure, t.first_key, t.first_tenure
        FROM tenure t
        JOIN move m ON m.parent_key = t.key AND m.parent_tenure = t.tenure
    ), life AS MATERIALIZED (
        SELECT t.first_tenure = 0 AS was_there,
               (array_agg(e.id ORDER BY e.commit_no, e.statement_no, e.op, e.id))[1] AS first_id,
               (array_agg(e.id ORDER BY e.commit_no DESC, e.statement_no DESC, e.op DESC, e.id DESC))[1] AS last_id,
               bool_and((e.commit_no, e.statement_no) < (p_mark_commit, p_mark_statement)) AS fell_to_mark,
               array_agg(DISTINCT h.name) FILTER (WHERE h.name IS NOT NULL) AS hidden,
               count(DISTINCT e.id) AS changes
        FROM tenure t
        JOIN entry e ON e.key = t.key AND e.tenure = t.tenure
        LEFT JOIN hidden h ON h.id = e.id
        WHERE e.op <> 2
        GROUP BY t.first_key, t.first_tenure
    ), image AS MATERIALIZED (
        SELECT c.id, c.op, c.table_pk, c.old_pk, c.schema_version, c.old_image, c.new_image, c.old_exact, c.new_exact
        FROM threadline.readable_change c
        WHERE c.id = ANY (ARRAY(SELECT l.first_id FROM life l UNION SELECT l.last_id FROM life l))
    ), state AS MATERIALIZED (
        -- Only a mark or a baseline tells of rows that have no change of their own.
        SELECT s.table_pk, s.schema_version, s.image, s.exact
        FROM threadline.table_state(p_table_id, p_base, p_low) s
        WHERE p_base IS NOT NULL
    ), ends AS MATERIALIZED (
        SELECT l.was_there, l.changes, l.hidden,
               coalesce(f.old_pk, f.table_pk) AS pk_before, z.table_pk AS pk_after,
               CASE WHEN f.op = 3 THEN s.schema_version ELSE f.schema_version END AS version_before, z.schema_version AS version_after,
               CASE WHEN NOT l.was_there THEN NULL WHEN f.op = 3 THEN s.image
                    WHEN f.op = 5 THEN f.new_image || coalesce(f.old_image, '{}') ELSE f.old_image END AS before,
               CASE WHEN NOT l.was_there THEN NULL WHEN f.op = 3 THEN s.exact
                    WHEN f.op = 5 THEN threadline.replace_exact(f.new_exact, coalesce(f.old_image, '{}'), f.old_exact) ELSE f.old_exact END AS exact_before,
               CASE WHEN a.is_alive THEN z.new_image END AS after,
               CASE WHEN a.is_alive THEN z.new_exact END AS exact_after,
               (l.fell_to_mark AND z.op >= 3)::integer AS marks
        FROM life l
        JOIN image f ON f.id = l.first_id
        JOIN image z ON z.id = l.last_id
        CROSS JOIN LATERAL (SELECT z.op >= 3 AND l.fell_to_mark IS NOT TRUE AND (p_floor IS NULL OR z.id >= p_floor)) AS a (is_alive)
        LEFT JOIN state s ON f.op = 3 AND s.table_pk = f.table_pk
        UNION ALL
        SELECT true, 0, NULL, s.table_pk, NULL, s.schema_version, NULL, s.image, s.exact, NULL, NULL, (p_mark_commit IS NOT NULL)::integer
        FROM state s
        WHERE NOT EXISTS (SELECT FROM life l JOIN image f ON f.id = l.first_id WHERE l.was_there AND coalesce(f.old_pk, f.table_pk) = s.table_pk)
    ), netted AS (
        SELECT e.pk_before, e.pk_after, e.version_before, e.version_after, e.before, e.after, e.exact_before, e.exact_after, e.hidden,
               e.changes + coalesce(e.marks, 0) AS changes
        FROM ends e
        WHERE e.before IS NOT NULL AND e.after IS NOT NULL
        UNION ALL
        -- A row that went and another that came under its key are one to whoever looks at the two times.
        SELECT g.pk_before, n.pk_after, g.version_before, n.version_after, g.before, n.after, g.exact_before, n.exact_after,
               coalesce(g.hidden, '{}') || coalesce(n.hidden, '{}'),
               coalesce(g.changes + coalesce(g.marks, 0), 0) + coalesce(n.changes, 0)
        FROM (SELECT e.* FROM ends e WHERE e.before IS NOT NULL AND e.after IS NULL) g
        FULL JOIN (SELECT e.* FROM ends e WHERE e.before IS NULL AND e.after IS NOT NULL) n ON n.pk_after = g.pk_before
    ), named AS (
        SELECT n.pk_before, n.pk_after, n.hidden, n.changes,
               CASE WHEN v_names ? n.version_before::text THEN threadline.renamed_image(n.before, v_names -> n.version_before::text) ELSE n.before END AS before,
               CASE WHEN v_names ? n.version_after::text THEN threadline.renamed_image(n.after, v_names -> n.version_after::text) ELSE n.after END AS after,
               CASE WHEN v_names ? n.version_before::text THEN threadline.renamed_image(n.exact_before, v_names -> n.version_before::text) ELSE n.exact_before END AS exact_before,
               CASE WHEN v_names ? n.version_after::text THEN threadline.renamed_image(n.exact_after, v_names -> n.version_after::text) ELSE n.exact_after END AS exact_after
        FROM netted n
    )
    SELECT k.table_pk, CASE WHEN n.before IS NULL THEN 'insert' WHEN n.after IS NULL THEN 'delete' ELSE 'update' END,
           n.before, n.after, d.fields, n.changes::integer
    FROM named n
    CROSS JOIN LATERAL (SELECT CASE WHEN n.after IS NULL THEN n.pk_before ELSE n.pk_after END) AS k (table_pk)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN n.before IS NOT NULL AND n.after IS NOT NULL THEN
            ARRAY(SELECT u.name FROM (SELECT unnest(threadline.differing_fields(n.before, n.after, n.exact_before, n.exact_after)) UNION SELECT unnest(n.hidden)) AS u (name)
                  ORDER BY u.name COLLATE "C") END
    ) AS d (fields)
    WHERE n.before IS NULL OR n.after IS NULL OR cardinality(d.fields) > 0 OR n.pk_before <> n.pk_after
    ORDER BY length(k.table_pk::text), k.table_pk::text COLLATE "C", 2;
END
$$;

CREATE FUNCTION threadline.audit_diff(target regclass, since timestamptz, until timestamptz) RETURNS SETOF threadline.audit_diff_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_low constant bigint := threadline.commit_horizon(audit_diff.since);
    v_high constant bigint := threadline.commit_horizon(audit_diff.until);
    v_table_id constant integer := threadline.table_lookup(audit_diff.target);
    v_relation regclass;
    v_base threadline.state_base;
    v_floor bigint;
    v_mark record;
    v_is_whole boolean;
BEGIN
    PERFORM threadline.require_readable(v_table_id, audit_diff.target);
    IF audit_diff.since > audit_diff.until THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('since, %s, is later than until, %s', audit_diff.since, audit_diff.until),
            HINT = 'The earlier time comes first: threadline.audit_diff(''orders'', since, until).';
    END IF;
    IF EXISTS (SELECT FROM threadline.gaps_between(v_table_id, audit_diff.since, audit_diff.until) g WHERE g.reason IN ('not_yet_enabled', 'purged')) THEN
        PERFORM threadline.refuse_unknown_past(audit_diff.target::text, audit_diff.since,
            EXISTS (SELECT FROM threadline.gaps_between(v_table_id, audit_diff.since, audit_diff.until) g WHERE g.reason = 'purged'));
    END IF;
    IF (SELECT count(DISTINCT v.key_columns)
        FROM (SELECT v.key_columns, v.from_change_id, lead(v.from_change_id) OVER (ORDER BY v.version) AS ended
              FROM threadline.readable_version v WHERE v.table_id = v_table_id) v
        WHERE v.from_change_id <= v_high AND coalesce(v.ended > v_low, true)) > 1 THEN
        PERFORM threadline.refuse_diff(audit_diff.target, 'The table got another key between them.');
    END IF;
    v_base := threadline.state_base(v_table_id, v_low);
    SELECT max(b.first_change_id) INTO v_floor
    FROM threadline.readable_baseline b
    WHERE b.table_id = v_table_id AND b.commit_no > v_low AND b.commit_no <= v_high;
    SELECT m.commit_order, m.statement_no INTO v_mark
    FROM threadline.last_mark(v_table_id, 0, v_high) m
    WHERE m.commit_order > v_low;
    v_is_whole := v_floor IS NOT NULL OR v_mark.commit_order IS NOT NULL;
    IF v_is_whole AND (v_base.purged OR v_base.first_change_id IS NULL) THEN
        PERFORM threadline.refuse_unknown_past(audit_diff.target::text, audit_diff.since, v_base.purged);
    END IF;
    IF threadline.was_full_row(v_table_id, v_high) THEN
        IF v_is_whole THEN
            PERFORM threadline.refuse_diff(audit_diff.target, 'It has no key, and a baseline was taken between them, or a TRUNCATE recorded as one change.');
        END IF;
        PERFORM threadline.report_incomplete(audit_diff.target::text, v_table_id, audit_diff.since, audit_diff.until);
        RETURN QUERY SELECT d.* FROM threadline.counted_diff(v_table_id, v_low, audit_diff.since, v_high, audit_diff.until) d;
    ELSE
        PERFORM threadline.report_incomplete(audit_diff.target::text, v_table_id, audit_diff.since, audit_diff.until);
        SELECT t.relation INTO v_relation FROM threadline.readable_table t WHERE t.table_id = v_table_id;
        RETURN QUERY
        SELECT d.*
        FROM threadline.keyed_diff(v_table_id, v_relation, v_low, audit_diff.since, v_high, audit_diff.until, CASE WHEN v_is_whole THEN v_base.first_change_id END, v_floor,
                                   v_mark.commit_order, v_mark.statement_no) d;
    END IF;
END
$$;
COMMENT ON FUNCTION threadline.audit_diff(regclass, timestamptz, timestamptz) IS
    'What became of each row of a table between two times, by what was committed after since and up to until: the net effect, as audit_diff_row; rows that are as before are left out. A row whose key changed is one update, with the key of the later time; a row that went and one that came under the same key are one update. Rows of a table without a key (full_row) are counted: one insert or delete for each copy. It reads the changes between the two times, not the table, unless a baseline or a TRUNCATE recorded as one change lies between them. infinity: the latest committed state. Errors: 22023 a time that is NULL or in the future, since later than until; 42704 no history; 42501 no right to read it; 55000 the record does not reach back to since, or was purged; 0A000 the table got another key meanwhile, or has none and got a new baseline. Any other gap is a WARNING, or 55000 under threadline.incomplete = error.';

-- Most rows of a table are as its history says. So the check first goes through the changes and the table once, keeps a number for each row
-- (src/replay/table_check.rs), and leaves the keys that do not come out, or cannot be told this way, to the statement that can
-- say what is wrong (comparison_statement in replay.sql).

CREATE FUNCTION threadline.sums_begin(is_known boolean, own_transaction uuid) RETURNS integer LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'sums_begin';
CREATE FUNCTION threadline.sums_version("check" integer, version integer, is_opaque boolean, is_whole boolean, names_then text[], names_now text[])
    RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'sums_version';
CREATE FUNCTION threadline.sums_mark("check" integer, commit_order bigint, statement_no integer) RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'sums_mark';
CREATE FUNCTION threadline.sums_change("check" integer, id bigint, transaction_id uuid, statement_no integer, version integer, op smallint, key text, old_key text,
                                       old_image jsonb, new_image jsonb, old_exact jsonb, new_exact jsonb)
    RETURNS uuid LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'sums_change';
CREATE FUNCTION threadline.sums_row("check" integer, r anyelement) RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'sums_row';
CREATE FUNCTION threadline.sums_end("check" integer, OUT suspects text[], OUT changes bigint, OUT versions text[], OUT unrecorded bigint, OUT replayed_rows bigint, OUT table_rows bigint)
    RETURNS record LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'sums_end';

-- Changes of different transactions to a row are in the order of ids, so few rows are suspect for the order that their changes come in. The
-- order stands inside: see readable_change_newest.
CREATE VIEW threadline.replayable_change_oldest WITH (security_barrier) AS
SELECT c.id, c.transaction_id, c.table_id, c.statement_no, c.schema_version, c.op, c.key, c.old_key, c.old_image, c.new_image, c.old_exact, c.new_exact
FROM threadline.stored_change c
WHERE c.table_id = ANY (ARRAY(SELECT t.table_id FROM threadline.replayable_table t))
ORDER BY c.id;

-- What the sums say of a table, under the snapshot of the caller's statement: suspects are the keys to look at closely, NULL where that is the whole
-- table; the rest is counted as comparison_statement does.
CREATE FUNCTION threadline.compared_sums(p_table_id integer, p_relation regclass, p_first_change_id bigint, p_is_known boolean,
                                         OUT suspects text[], OUT changes bigint, OUT transactions bigint, OUT versions integer[], OUT unrecorded bigint, OUT replayed_rows bigint, OUT table_rows bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_check integer;
    v_marks bigint;
    v_end record;
BEGIN
    -- A delta is not a whole image.
    IF NOT EXISTS (SELECT FROM threadline.replayable_table t WHERE t.table_id = p_table_id) THEN
        RETURN;
    END IF;
    v_check := threadline.sums_begin(p_is_known, (SELECT p.id FROM threadline.pending_transaction() p));
    -- Opaque: what is typed or spelt otherwise now, or compared with the table as other columns than with other versions.
    PERFORM threadline.sums_version(v_check, f.version, bool_or(f.is_retyped AND f.is_live OR f.is_live <> f.is_kept), bool_and(i.version IS NULL),
                                    array_agg(f.name_then) FILTER (WHERE f.is_live), array_agg(f.name_now) FILTER (WHERE f.is_live))
    FROM (
        SELECT c.version, c.name_then, c.name_now,
               coalesce(c.type_now <> c.type_then OR c.redefined, false) AS is_retyped,
               c.name_now IS NOT NULL AND c.redact IS NULL AND NOT c.masked_otherwise AND c.name_now <> ALL (h.names) AS is_live,
               c.name_now IS NOT NULL AND c.redact IS NULL AND NOT c.masked_otherwise AND c.type_now = c.type_then AS is_kept
        FROM threadline.column_fate(p_table_id, p_relation) c
        CROSS JOIN (SELECT coalesce(array_agg(h.name::text), '{}') AS names
                    FROM threadline.readable_table t
                    CROSS JOIN LATERAL unnest(t.exclude::text[] || t.mask) AS h (name)
                    WHERE t.table_id = p_table_id) h
    ) f
    LEFT JOIN threadline.image_comparison(p_table_id, p_relation) i ON i.version = f.version
    GROUP BY f.version;
    SELECT count(threadline.sums_mark(v_check, CASE WHEN x.id IS NULL THEN m.id ELSE coalesce(x.commit_no, 9223372036854775807) END, m.statement_no)) INTO v_marks
    FROM threadline.readable_mark m
    LEFT JOIN threadline.readable_transaction x ON x.id = m.transaction_id
    WHERE m.table_id = p_table_id AND m.id >= p_first_change_id;
    EXECUTE $statement$
        SELECT count(DISTINCT f.another)
        FROM (SELECT threadline.sums_change($1, c.id, c.transaction_id, c.statement_no, c.schema_version, c.op, c.key, c.old_key, c.old_image, c.new_image, c.old_exact, c.new_exact) AS another
              FROM threadline.replayable_change_oldest c
              WHERE c.table_id = $2 AND c.id >= $3 AND c.op <> 2 AND (c.op <> 0 OR c.old_image IS NOT NULL)
              OFFSET 0) f
        $statement$
    INTO STRICT transactions
    USING v_check, p_table_id, p_first_change_id;
    EXECUTE format('SELECT count(threadline.sums_row($1, t.*)) FROM %s%s t',
                   (SELECT CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END FROM pg_class c WHERE c.oid = p_relation), p_relation)
    USING v_check;
    SELECT * INTO STRICT v_end FROM threadline.sums_end(v_check);
    suspects := v_end.suspects;
    changes := v_end.changes + v_marks;
    versions := v_end.versions::integer[];
    unrecorded := v_end.unrecorded;
    replayed_rows := v_end.replayed_rows;
    table_rows := v_end.table_rows;
END
$$;

-- One change, explained: for machines and for people.

-- What differs between two JSON values, as [{"path","kind","before","after"}] in document order of the paths.
-- Compared as text: jsonb equality would take 1.0 and 1.00 for the same.
CREATE FUNCTION threadline.json_differences(before jsonb, after jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH RECURSIVE node AS (
        SELECT '{}'::text[] AS path, '{}'::text[] AS place, json_differences.before AS before, json_differences.after AS after
        UNION ALL
        SELECT n.path || e.step, n.place || e.place, e.before, e.after
        FROM node n
        CROSS JOIN LATERAL (
            SELECT coalesce(b.key, a.key) AS step, coalesce(b.key, a.key) AS place, b.value AS before, a.value AS after
            FROM jsonb_each(CASE WHEN jsonb_typeof(n.before) = 'object' AND jsonb_typeof(n.after) = 'object' THEN n.before ELSE '{}' END) b
            FULL JOIN jsonb_each(CASE WHEN jsonb_typeof(n.before) = 'object' AND jsonb_typeof(n.after) = 'object' THEN n.after ELSE '{}' END) a
                ON a.key = b.key
            UNION ALL
            SELECT (coalesce(b.n, a.n) - 1)::text, lpad((coalesce(b.n, a.n) - 1)::text, 10, '0'), b.value, a.value
            FROM jsonb_array_elements(CASE WHEN jsonb_typeof(n.before) = 'array' AND jsonb_typeof(n.after) = 'array' THEN n.before ELSE '[]' END) WITH ORDINALITY b (value, n)
            FULL JOIN jsonb_array_elements(CASE WHEN jsonb_typeof(n.before) = 'array' AND jsonb_typeof(n.after) = 'array' THEN n.after ELSE '[]' END) WITH ORDINALITY a (value, n)
                ON a.n = b.n
        ) e
        WHERE e.before::text IS DISTINCT FROM e.after::text
    )
    SELECT coalesce(jsonb_agg(
               jsonb_build_object('path', to_jsonb(n.path),
                                  'kind', CASE WHEN n.before IS NULL THEN 'added' WHEN n.after IS NULL THEN 'removed' ELSE 'changed' END)
               || CASE WHEN n.before IS NULL THEN '{}' ELSE jsonb_build_object('before', n.before) END
               || CASE WHEN n.after IS NULL THEN '{}' ELSE jsonb_build_object('after', n.after) END
               ORDER BY n.place COLLATE "C"), '[]')
    FROM node n
    WHERE cardinality(n.path) > 0
      AND NOT (n.before IS NOT NULL AND n.after IS NOT NULL
               AND jsonb_typeof(n.before) = jsonb_typeof(n.after) AND jsonb_typeof(n.before) IN ('object', 'array'));
END;

-- The v1 documents of many changes. Times are in the caller's time zone.
CREATE FUNCTION threadline.diff_documents(changes threadline.audit_change_row[], expand_insert_fields boolean)
RETURNS TABLE (id bigint, document jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH change AS MATERIALIZED (
        SELECT c.* FROM unnest(diff_documents.changes) c
    ), field AS MATERIALIZED (
        SELECT c.id,
               jsonb_agg(CASE WHEN (c.changed_from ? f.name) IS NOT TRUE THEN jsonb_build_object('name', f.name, 'after', c.data_after -> f.name, 'prior_state', 'omitted')
                              WHEN b.kind = a.kind AND b.kind IN ('object', 'array') THEN
                                  jsonb_build_object('name', f.name, 'after', c.data_after -> f.name, 'before', c.changed_from -> f.name,
                                                     'paths', threadline.json_differences(c.changed_from -> f.name, c.data_after -> f.name))
                              ELSE jsonb_build_object('name', f.name, 'after', c.data_after -> f.name, 'before', c.changed_from -> f.name) END
                         ORDER BY f.n) AS changes
        FROM change c
        CROSS JOIN LATERAL unnest(c.changed_fields) WITH ORDINALITY AS f (name, n)
        CROSS JOIN LATERAL (SELECT jsonb_typeof(c.changed_from -> f.name)) AS b (kind)
        CROSS JOIN LATERAL (SELECT jsonb_typeof(c.data_after -> f.name)) AS a (kind)
        WHERE c.op = 'update'
        GROUP BY c.id
        UNION ALL
        SELECT c.id, jsonb_agg(jsonb_build_object('name', f.key, 'after', f.value, 'kind', 'set') ORDER BY f.key COLLATE "C")
        FROM change c
        CROSS JOIN LATERAL jsonb_each(c.data_after) f
        WHERE diff_documents.expand_insert_fields AND c.op IN ('insert', 'snapshot')
        GROUP BY c.id
    )
    SELECT c.id,
           CASE WHEN c.op IN ('delete', 'truncate') THEN d.document || jsonb_build_object('data_before', c.changed_from)
                WHEN c.old_pk IS NOT NULL THEN d.document || jsonb_build_object('old_pk', c.old_pk)
                ELSE d.document END
    FROM change c
    LEFT JOIN field f ON f.id = c.id
    CROSS JOIN LATERAL (
        SELECT jsonb_build_object(
            'id', c.id, 'transaction_id', c.transaction_id, 'table_schema', c.table_schema, 'table_name', c.table_name, 'table_pk', c.table_pk,
            'captured_at', c.captured_at, 'data_after', c.data_after, 'schema_version', 1,
            'before_values', CASE WHEN c.changed_from IS NULL THEN 'none' ELSE 'sparse' END,
            'op', upper(c.op), 'field_changes', coalesce(f.changes, '[]'))
        OFFSET 0
    ) AS d (document);
END;

CREATE FUNCTION threadline.diff_document(change threadline.audit_change_row, expand_insert_fields boolean, format text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    IF diff_document.format = 'export_compat' THEN
        RETURN jsonb_build_object(
            'id', change.id,
            'transaction_id', change.transaction_id,
            'table_schema', change.table_schema,
            'table_name', change.table_name,
            'table_pk', change.table_pk,
            'captured_at', change.captured_at,
            'data_after', change.data_after,
            'op', change.op,
            'changed_fields', coalesce(to_jsonb(change.changed_fields), '[]'),
            'changed_from', coalesce(change.changed_from, '{}'));
    END IF;
    IF diff_document.format IS DISTINCT FROM 'v1' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('change_diff has no format "%s"', diff_document.format),
            HINT = 'Use format => ''v1'' or format => ''export_compat''.';
    END IF;
    RETURN (SELECT d.document FROM threadline.diff_documents(ARRAY[change], diff_document.expand_insert_fields) d);
END
$$;

CREATE FUNCTION threadline.change_diff(change_id bigint, expand_insert_fields boolean = false, format text = 'v1') RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_change threadline.audit_change_row;
BEGIN
    SELECT c.* INTO v_change FROM threadline.audit_changes c WHERE c.id = change_diff.change_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN threadline.diff_document(v_change, coalesce(change_diff.expand_insert_fields, false), change_diff.format);
END
$$;

-- A value as a reader wants it in one line.
CREATE FUNCTION threadline.brief_value(value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT CASE WHEN length(v.t) > 60 THEN left(v.t, 59) || '…' ELSE v.t END
        FROM (SELECT coalesce(brief_value.value #>> '{}', 'null')) AS v (t));

CREATE FUNCTION threadline.change_summary(change_id bigint) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_change threadline.audit_change_row;
    v_key text;
    v_what text;
    v_who text;
BEGIN
    SELECT c.* INTO v_change FROM threadline.audit_changes c WHERE c.id = change_summary.change_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT CASE WHEN count(*) = 1 AND min(k.key) = 'full_row' AND min(k.value) ~ '^[0-9a-f]{40}$' THEN left(min(k.value), 12)
                WHEN count(*) = 1 THEN min(k.value) ELSE string_agg(k.key || '=' || k.value, ', ' ORDER BY k.key COLLATE "C") END
    INTO v_key
    FROM jsonb_each_text(v_change.table_pk) k;
    v_what := CASE v_change.op
        WHEN 'insert' THEN 'inserted'
        WHEN 'delete' THEN 'deleted'
        WHEN 'truncate' THEN CASE WHEN v_change.table_pk IS NULL THEN 'every row truncated' ELSE 'truncated' END
        WHEN 'snapshot' THEN 'recorded as it was'
        ELSE coalesce(
            (SELECT string_agg(f.name || ' ' || threadline.brief_value(v_change.changed_from -> f.name)
                               || ' → ' || threadline.brief_value(v_change.data_after -> f.name), ', ' ORDER BY f.n)
             FROM unnest(v_change.changed_fields) WITH ORDINALITY AS f (name, n)),
            'updated without a change')
    END;
    SELECT coalesce(' by ' || nullif(concat_ws(':', x.actor_ref ->> 'type', x.actor_ref ->> 'id'), ''), '')
           || coalesce(' (' || a.name || ')', '')
    INTO v_who
    FROM threadline.readable_transaction x
    LEFT JOIN threadline.readable_action a ON a.id = x.action_id
    WHERE x.id = v_change.transaction_id;
    RETURN concat(v_change.table_name, ' ' || v_key, ': ', v_what, v_who);
END
$$;

COMMENT ON FUNCTION threadline.change_diff(bigint, boolean, text) IS
    'One change as JSON. v1: schema_version, op, table, key, times, data_after and field_changes [{"name","before","after"}] sorted by name, with "paths" for what changed inside a JSON value; a delete carries the old row as data_before; expand_insert_fields lists an insert''s columns. export_compat: the flat map of an export. Times in UTC. NULL for an unknown change or one the caller may not read. Errors: 22023 unknown format.';
COMMENT ON FUNCTION threadline.change_summary(bigint) IS
    'One change as a readable line: users 1: balance 10 → 11 by user:u-7 (invoice.post). NULL for an unknown change or one the caller may not read.';

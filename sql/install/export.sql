-- Changes for other programs: a line each, oldest first, with a manifest that says whether that was all.

-- A record of comma-separated values as RFC 4180 has it; NULL is an empty field, an empty text is quoted. With formula_safe nothing
-- begins as what a spreadsheet would take for a formula (OWASP, CSV injection).
CREATE FUNCTION threadline.csv_record(fields text[], formula_safe boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT string_agg(CASE WHEN v.value IS NULL THEN ''
                               WHEN v.value = '' OR v.value ~ '[",\r\n]' THEN '"' || replace(v.value, '"', '""') || '"'
                               ELSE v.value END, ',' ORDER BY f.n)
        FROM unnest(csv_record.fields) WITH ORDINALITY AS f (value, n)
        CROSS JOIN LATERAL (SELECT CASE WHEN csv_record.formula_safe AND f.value ~ '^[-=+@\t\r]' THEN '''' || f.value ELSE f.value END) AS v (value));

CREATE FUNCTION threadline.audit_export(format text, target regclass = NULL, actor jsonb = NULL, correlation_id text = NULL, request_id text = NULL, job_id text = NULL,
                                        op text = NULL, changed_field text = NULL, match jsonb = NULL,
                                        since timestamptz = '-infinity', until timestamptz = 'infinity', max_rows bigint = 10000, formula_safe boolean = false)
RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET timezone = 'UTC'
AS $$
DECLARE
    v_names constant text[] := ARRAY['id', 'transaction_id', 'table_schema', 'table_name', 'table_pk', 'old_pk', 'op', 'changed_fields', 'changed_from', 'data_after',
                                     'captured_at', 'statement_no', 'schema_version', 'committed_at', 'actor_ref', 'action_name', 'correlation_id', 'request_id', 'job_id'];
    v_safe constant boolean := coalesce(audit_export.formula_safe, false);
    v_csv constant boolean := audit_export.format = 'csv';
    v_json constant boolean := audit_export.format = 'json';
    v_table_id integer;
    v_gaps jsonb;
BEGIN
    IF audit_export.format IS NULL OR audit_export.format NOT IN ('json', 'ndjson', 'csv') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('audit_export has no format %s', coalesce('"' || audit_export.format || '"', 'NULL')),
            HINT = 'Use ''json'', ''ndjson'' or ''csv''.';
    END IF;
    PERFORM threadline.require_limit(audit_export.max_rows);
    IF audit_export.target IS NOT NULL THEN
        v_table_id := threadline.table_lookup(audit_export.target);
    END IF;
    SELECT coalesce(jsonb_agg(to_jsonb(g) - 'table_id' ORDER BY g.table_schema, g.table_name, g.since_at, g.until_at, g.reason, g.detail::text), '[]')
    INTO v_gaps
    FROM threadline.readable_table t
    CROSS JOIN LATERAL threadline.gaps_in_window(t.table_id, coalesce(audit_export.since, '-infinity'), coalesce(audit_export.until, 'infinity')) g
    WHERE v_table_id IS NULL OR t.table_id = v_table_id;
    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT h.*
        FROM threadline.timeline_rows(audit_export.target, audit_export.actor, audit_export.correlation_id, audit_export.request_id, audit_export.job_id,
                                      audit_export.op, audit_export.changed_field, audit_export.match, audit_export.since, audit_export.until,
                                      least(audit_export.max_rows, 9223372036854775806) + 1, NULL, false)
             WITH ORDINALITY AS h (id, transaction_id, table_schema, table_name, table_pk, old_pk, op, changed_fields, changed_from, data_after, captured_at,
                                   statement_no, schema_version, committed_at, actor_ref, action_name, correlation_id, request_id, job_id, complete, n)
    ), summary AS MATERIALIZED (
        SELECT least(count(*), audit_export.max_rows) AS rows, coalesce(count(*) > audit_export.max_rows, false) AS truncated FROM found f
    ), line AS MATERIALIZED (
        SELECT 0::bigint AS n, CASE WHEN v_csv THEN threadline.csv_record(v_names, false) ELSE '{"changes":[' END AS text
        WHERE v_csv OR v_json
        UNION ALL
        SELECT f.n,
               CASE WHEN v_csv THEN
                        threadline.csv_record(ARRAY[
                            f.id::text, f.transaction_id::text, f.table_schema, f.table_name, f.table_pk::text, f.old_pk::text, f.op, to_jsonb(f.changed_fields)::text,
                            f.changed_from::text, f.data_after::text, to_jsonb(f.captured_at) #>> '{}', f.statement_no::text, f.schema_version::text,
                            to_jsonb(f.committed_at) #>> '{}', f.actor_ref::text, f.action_name, f.correlation_id, f.request_id, f.job_id], v_safe)
                    ELSE
                        (SELECT row_to_json(r)::text
                         FROM (SELECT f.id, f.transaction_id, f.table_schema, f.table_name, f.table_pk, f.old_pk, f.op, f.changed_fields, f.changed_from, f.data_after,
                                      f.captured_at, f.statement_no, f.schema_version, f.committed_at, f.actor_ref, f.action_name,
                                      f.correlation_id, f.request_id, f.job_id) r)
                        || CASE WHEN v_json AND f.n < s.rows THEN ',' ELSE '' END
               END
        FROM found f CROSS JOIN summary s
        WHERE f.n <= s.rows
    ), manifest AS MATERIALIZED (
        SELECT jsonb_build_object(
                   'format', audit_export.format, 'rows', s.rows, 'truncated', s.truncated, 'max_rows', audit_export.max_rows,
                   'complete', v_gaps = '[]', 'gaps', v_gaps,
                   'sha256', encode(sha256(convert_to(coalesce((SELECT string_agg(l.text || E'\n', '' ORDER BY l.n) FROM line l), ''), 'UTF8')), 'hex')) AS document
        FROM summary s
    )
    SELECT o.text
    FROM (
        SELECT l.n, l.text FROM line l
        UNION ALL
        SELECT 9223372036854775807,
               CASE WHEN v_csv THEN threadline.csv_record(ARRAY['manifest', m.document::text] || array_fill(NULL::text, ARRAY[cardinality(v_names) - 2]), false)
                    WHEN v_json THEN '],"manifest":' || m.document::text || '}'
                    ELSE jsonb_build_object('manifest', m.document)::text END
        FROM manifest m
    ) o
    ORDER BY o.n;
END
$$;
COMMENT ON FUNCTION threadline.audit_export(text, regclass, jsonb, text, text, text, text, text, jsonb, timestamptz, timestamptz, bigint, boolean) IS
    'The changes that audit_timeline finds with the same filters, for machines: oldest first (commit order, then statement_no, op, id), a line each, from one snapshot. format ndjson: an object a line; json: one document, {"changes": [ … ], "manifest": { … }}; csv: RFC 4180 with a header, NULL an empty field and an empty text "". The last line is the manifest: how many rows, whether truncated at max_rows (NULL: all), whether complete, with the gaps, and sha256 of all lines before it as UTF-8, each with a line feed: head -n -1 | sha256sum. In csv it is a last record with "manifest" as id and the manifest as transaction_id, so that one answer from one snapshot says whether it is whole and a load into a typed table cannot overlook it. formula_safe: in csv a field that starts with =, +, -, @, tab or carriage return gets a leading apostrophe. Times in UTC; the same log gives the same bytes, whatever the session sets. More than 1 GB fails with 54000. Errors as audit_timeline; 22023 unknown format.';

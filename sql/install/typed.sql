-- From what was recorded in a table's shape of then to a row of its type of now. In PL/pgSQL, as all that every look at the history
-- calls: its plans are kept.

-- Each column of each recorded version and what it is called and typed now (NULL: gone). Followed by attribute
-- number; a restore renumbers the columns of a table that had dropped some, which shows when a version has a
-- number the table never had: from there on the names decide. masked_otherwise: other parts of its documents are hidden
-- now, or behind another placeholder. redefined: labels or attributes that its values are made
-- of are not what they are now; recipe is what respell() does to a text of then, NULL when that reads as it is.
CREATE FUNCTION threadline.column_fate(p_table_id integer, p_relation regclass)
RETURNS TABLE (version integer, name_then text, type_then text, redact text, name_now text, type_now text, masked_otherwise boolean, redefined boolean, recipe text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH past AS (
        SELECT v.version, v.types, c.attnum, c.name, c.type, nullif(c.redact, 'path') AS redact, ROW(c.paths, c.placeholder)::text AS masks
        FROM threadline.readable_version v
        CROSS JOIN LATERAL jsonb_to_recordset(v.columns) AS c (attnum smallint, name text, type text, redact text, paths jsonb, placeholder text)
        WHERE v.table_id = column_fate.p_table_id
    ), newest AS MATERIALIZED (
        -- audit_enable records a shape when paths change, so this one is as images are masked now.
        SELECT p.attnum, p.name, p.masks FROM past p WHERE p.version = (SELECT max(w.version) FROM past w)
    ), restored AS (
        SELECT max(p.version) AS version
        FROM past p
        WHERE p.attnum > (SELECT c.relnatts FROM pg_class c WHERE c.oid = column_fate.p_relation)
    ), present AS MATERIALIZED (
        SELECT a.attnum, a.attname::text AS name, a.atttypid, format_type(a.atttypid, a.atttypmod) AS type,
               threadline.type_definitions(a.atttypid) AS definitions
        FROM pg_attribute a
        WHERE a.attrelid = column_fate.p_relation AND a.attnum > 0 AND NOT a.attisdropped
    )
    SELECT p.version, p.name, p.type, p.redact, n.name, n.type,
           coalesce(p.masks <> (SELECT s.masks FROM newest s WHERE s.name = n.name OR s.attnum = n.attnum ORDER BY s.name = n.name DESC LIMIT 1), false),
           d.redefined,
           CASE WHEN d.redefined THEN
               threadline.respelling(n.atttypid, p.types, (SELECT jsonb_agg(v.types ORDER BY v.version) FROM threadline.readable_version v
                                                           WHERE v.table_id = column_fate.p_table_id AND v.version > p.version)) END
    FROM past p
    CROSS JOIN restored r
    LEFT JOIN past l ON l.version = r.version AND l.attnum = p.attnum AND p.version <= r.version
    LEFT JOIN present n ON CASE WHEN p.version <= r.version THEN n.name = l.name ELSE n.attnum = p.attnum END
    CROSS JOIN LATERAL (
        SELECT EXISTS (SELECT FROM jsonb_each(n.definitions) m WHERE p.types -> m.key IS DISTINCT FROM m.value) AS redefined
    ) d;
END
$$;

-- SQL expressions over s.image and s.exact that give a recorded version's columns the names of now, drop those that
-- are gone, were redacted or are hidden, or hold what does not compare if that is asked, and spell exact texts as their types read them now. Versions that need none
-- do not appear.
CREATE FUNCTION threadline.version_as_now(p_table_id integer, p_relation regclass, p_hidden text[], p_to_compare boolean)
RETURNS TABLE (version integer, image text, exact text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT f.version,
           format('(s.image - %L::text[])', coalesce(array_agg(f.name_then ORDER BY f.name_then) FILTER (WHERE f.goes OR f.is_renamed), '{}'))
           || coalesce(string_agg(format(' || CASE WHEN s.image ? %2$L THEN jsonb_build_object(%1$L, s.image -> %2$L) ELSE ''{}'' END', f.name_now, f.name_then), '' ORDER BY f.name_then)
                       FILTER (WHERE f.is_renamed AND NOT f.goes), ''),
           format('nullif((coalesce(s.exact, ''{}'') - %L::text[])', coalesce(array_agg(f.name_then ORDER BY f.name_then) FILTER (WHERE f.goes OR f.is_renamed OR f.recipe IS NOT NULL OR NOT f.is_readable), '{}'))
           || coalesce(string_agg(format(' || CASE WHEN s.exact ? %2$L THEN jsonb_build_object(%1$L, s.exact -> %2$L) ELSE ''{}'' END', f.name_now, f.name_then), '' ORDER BY f.name_then)
                       FILTER (WHERE f.is_renamed AND NOT f.goes AND f.recipe IS NULL AND f.is_readable), '')
           || coalesce(string_agg(format(' || CASE WHEN s.exact ? %2$L OR jsonb_typeof(s.image -> %2$L) = ''string'' THEN jsonb_build_object(%1$L, threadline.respell(coalesce(s.exact ->> %2$L, s.image ->> %2$L), %3$L)) ELSE ''{}'' END', f.name_now, f.name_then, f.recipe), '' ORDER BY f.name_then)
                       FILTER (WHERE NOT f.goes AND f.recipe IS NOT NULL AND f.is_readable), '')
           || ', ''{}'')'
    FROM (
        SELECT c.version, c.name_then, c.name_now, c.recipe,
               c.name_now IS NULL OR c.redact IS NOT NULL OR c.name_now = ANY (version_as_now.p_hidden)
                   OR version_as_now.p_to_compare AND c.masked_otherwise AS goes,
               c.name_now <> c.name_then AS is_renamed,
               -- What became json was turned into it as its JSON form is.
               (c.type_now IN ('json', 'jsonb') AND c.type_then NOT IN ('json', 'jsonb')) IS NOT TRUE AS is_readable
        FROM threadline.column_fate(version_as_now.p_table_id, version_as_now.p_relation) c
    ) f
    GROUP BY f.version
    HAVING bool_or(f.goes OR f.is_renamed OR f.recipe IS NOT NULL OR NOT f.is_readable);
END
$$;

-- The columns whose exact texts cannot stand in an image: a JSON string is a value of theirs.
CREATE FUNCTION threadline.json_columns(p_relation regclass) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        WITH RECURSIVE base AS (
            SELECT a.attname::text AS name, a.atttypid AS type
            FROM pg_attribute a
            WHERE a.attrelid = json_columns.p_relation AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT b.name, y.typbasetype
            FROM base b JOIN pg_type y ON y.oid = b.type AND y.typtype = 'd'
        )
        SELECT coalesce(array_agg(b.name ORDER BY b.name), '{}') FROM base b WHERE b.type IN ('json'::regtype, 'jsonb'::regtype));
END
$$;

-- An SQL expression: the typed row of an image and exact texts that are as now, given as expressions. p_checked: likewise, the columns
-- whose values are to be tried.
CREATE FUNCTION threadline.typed_row(p_relation regclass, p_image text, p_exact text, p_checked text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT format('jsonb_populate_record(NULL::%s, %s)', typed_row.p_relation,
                      CASE WHEN typed_row.p_checked IS NULL THEN i.expression
                           ELSE format('threadline.castable(%s, %s, %L)', i.expression, typed_row.p_checked, typed_row.p_relation) END)
        FROM format('CASE WHEN %2$s IS NULL THEN %1$s ELSE %1$s || (%2$s - %3$L::text[]) END',
                    typed_row.p_image, typed_row.p_exact, threadline.json_columns(typed_row.p_relation)) AS i (expression));
END
$$;

-- The columns of such a row r, those of json with their exact texts.
CREATE FUNCTION threadline.typed_columns(p_relation regclass, p_exact text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT CASE WHEN cardinality(j.names) = 0 THEN 'r.*' ELSE (
                   SELECT string_agg(
                              CASE WHEN a.attname = ANY (j.names)
                                   THEN format('CASE WHEN %1$s ? %2$L THEN (%1$s ->> %2$L)::%3$s ELSE r.%4$I END',
                                               typed_columns.p_exact, a.attname, format_type(a.atttypid, a.atttypmod), a.attname)
                                   ELSE format('r.%I', a.attname) END, ', ' ORDER BY a.attnum)
                   FROM pg_attribute a
                   WHERE a.attrelid = typed_columns.p_relation AND a.attnum > 0 AND NOT a.attisdropped) END
        FROM (SELECT threadline.json_columns(typed_columns.p_relation)) AS j (names));
END
$$;

-- An image in names of now, after each value in some columns was tried: what does not read as the type that its column has now is
-- an error, or NULL if the caller wants that.
CREATE FUNCTION threadline.castable(p_image jsonb, p_columns text[], p_relation regclass) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_image jsonb := p_image;
    v_column record;
    v_code text;
    v_message text;
    v_key jsonb;
BEGIN
    FOR v_column IN
        SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
        FROM pg_attribute a
        WHERE a.attrelid = p_relation AND a.attname = ANY (p_columns) AND p_image ->> a.attname IS NOT NULL
        ORDER BY a.attnum
    LOOP
        BEGIN
            EXECUTE format('SELECT FROM jsonb_to_record($1) AS r (%I %s) WHERE r.* IS NULL', v_column.name, v_column.type)
            USING jsonb_build_object(v_column.name, p_image -> v_column.name);
        EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
            GET STACKED DIAGNOSTICS v_code = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT;
            SELECT jsonb_object_agg(k.name, p_image -> k.name) INTO v_key
            FROM threadline.readable_table t CROSS JOIN LATERAL unnest(t.key_columns::text[]) AS k (name)
            WHERE t.relation = p_relation;
            IF current_setting('threadline.uncastable', true) IS DISTINCT FROM 'warn' THEN
                RAISE EXCEPTION USING
                    ERRCODE = v_code,
                    MESSAGE = format('column "%s" of a row of table "%s" does not read as %s, the type that it has now', v_column.name, p_relation, v_column.type),
                    DETAIL = concat_ws(' ', format('Row %s.', v_key), format('Recorded is %s: %s.', left((p_image -> v_column.name)::text, 200), v_message)),
                    HINT = format('SET threadline.uncastable = warn; makes such values NULL. As they were recorded: SELECT * FROM threadline.audit_table_as_of(%L, …);', p_relation);
            END IF;
            RAISE WARNING USING
                MESSAGE = format('column "%s" of a row of table "%s" does not read as %s, the type that it has now, and is NULL', v_column.name, p_relation, v_column.type),
                DETAIL = concat_ws(' ', format('Row %s.', v_key), format('Recorded is %s: %s.', left((p_image -> v_column.name)::text, 200), v_message));
            v_image := v_image || jsonb_build_object(v_column.name, NULL);
        END;
    END LOOP;
    RETURN v_image;
END
$$;

-- A statement for the typed rows of s, which has schema_version, image and exact; p_first: what comes before their columns, n.image
-- being the image in names of now. p_checked: values of columns whose types are others now are tried one by one, which takes long.
CREATE FUNCTION threadline.typed_statement(p_table_id integer, p_relation regclass, p_source text, p_first text DEFAULT '', p_checked boolean DEFAULT false)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT format('SELECT %s%s FROM %s CROSS JOIN LATERAL (SELECT %s AS image, %s AS exact %s) n CROSS JOIN LATERAL %s r',
                      typed_statement.p_first,
                      threadline.typed_columns(typed_statement.p_relation, 'n.exact'),
                      typed_statement.p_source,
                      coalesce('CASE s.schema_version ' || v.images || ' ELSE s.image END', 's.image'),
                      coalesce('CASE s.schema_version ' || v.exacts || ' ELSE s.exact END', 's.exact'),
                      -- What is to be worked out is worked out once.
                      CASE WHEN v.images IS NOT NULL THEN 'OFFSET 0' END,
                      threadline.typed_row(typed_statement.p_relation, 'n.image', 'n.exact',
                          CASE WHEN typed_statement.p_checked THEN (
                              SELECT 'CASE s.schema_version ' || string_agg(format('WHEN %s THEN %L::text[]', c.version, c.names), ' ' ORDER BY c.version) || ' END'
                              FROM (SELECT f.version, array_agg(f.name_now) AS names
                                    FROM threadline.column_fate(typed_statement.p_table_id, typed_statement.p_relation) f
                                    WHERE f.redact IS NULL AND (f.type_then <> f.type_now OR f.redefined)
                                    GROUP BY f.version) c) END))
        FROM (
            SELECT string_agg(format('WHEN %s THEN %s', n.version, n.image), ' ' ORDER BY n.version) AS images,
                   string_agg(format('WHEN %s THEN %s', n.version, n.exact), ' ' ORDER BY n.version) AS exacts
            FROM threadline.version_as_now(typed_statement.p_table_id, typed_statement.p_relation, '{}', false) n
        ) v);
END
$$;

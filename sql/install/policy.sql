-- What a caller may ask of a policy: options, redaction, paths into JSON columns.

CREATE FUNCTION threadline.check_options(options jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    allowed CONSTANT jsonb := '{"key": ["full_row"], "on_error": ["fail", "warn"], "image": ["full", "delta"], "skip_noop": [true, false], "truncate": ["capture", "mark", "block"], "fires": ["origin", "always"]}';
    option  record;
    problem text;
BEGIN
    IF jsonb_typeof(check_options.options) <> 'object' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('options must be a JSON object, not %s', jsonb_typeof(check_options.options)),
            HINT = 'options => ''{"skip_noop": true}''';
    END IF;
    FOR option IN SELECT o.key AS name, o.value FROM jsonb_each(check_options.options) AS o ORDER BY o.key LOOP
        CONTINUE WHEN allowed -> option.name @> jsonb_build_array(option.value)
                   OR (option.name = 'truncate_cap' AND option.value::text ~ '^[1-9][0-9]{0,17}$');
        problem := CASE WHEN option.name = 'truncate_cap' THEN 'a positive number of rows'
                        ELSE (SELECT string_agg(v.value::text, ', ') FROM jsonb_array_elements(allowed -> option.name) AS v) END;
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = CASE WHEN problem IS NULL THEN format('unknown option "%s"', option.name)
                           ELSE format('option "%s" cannot be %s', option.name, option.value) END,
            HINT = CASE WHEN problem IS NULL THEN 'Options: key, on_error, image, skip_noop, truncate, truncate_cap, fires.'
                        ELSE format('Allowed: %s.', problem) END;
    END LOOP;
    IF check_options.options @> '{"image": "delta", "on_error": "warn"}' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'options "image": "delta" and "on_error": "warn" exclude each other',
            DETAIL = 'A delta is read on top of the changes before it, and with "warn" one of those may be lost.',
            HINT = 'options => ''{"image": "full", "on_error": "warn"}''';
    END IF;
END
$$;

CREATE FUNCTION threadline.check_redaction(target regclass, exclude int2[], mask int2[], paths int2[], key int2[], placeholder text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target_name CONSTANT text := threadline.qualified_name(check_redaction.target);
    clash name;
BEGIN
    SELECT a.attname INTO clash
    FROM pg_attribute AS a
    WHERE a.attrelid = check_redaction.target AND a.attnum = ANY (check_redaction.exclude) AND a.attnum = ANY (check_redaction.mask)
    ORDER BY a.attnum
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('column "%s" of table %s is both excluded and masked', clash, target_name),
            DETAIL = 'A list that is not given keeps what was set before.',
            HINT = format('Name it in one list and clear it from the other, where ''{}'' clears a list: SELECT threadline.audit_enable(%L, exclude => ''{}'', mask => %L);',
                          target_name, ARRAY[clash]);
    END IF;
    SELECT a.attname INTO clash
    FROM pg_attribute AS a
    WHERE a.attrelid = check_redaction.target AND a.attnum = ANY (check_redaction.key)
      AND a.attnum = ANY (check_redaction.exclude || check_redaction.mask || check_redaction.paths)
    ORDER BY a.attnum
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('column "%s" is part of the key of table %s and can be neither excluded nor masked', clash, target_name),
            DETAIL = 'Without its key a row has no history.',
            HINT = format('Leave it out of both lists, or take a key without it: SELECT threadline.audit_enable(%L, key_columns => ''{…}'');', target_name);
    END IF;
    IF check_redaction.placeholder = '' OR length(check_redaction.placeholder) > 200
       OR check_redaction.placeholder ~ '[\x01-\x1f\x7f]' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('mask_placeholder of table %s %s', target_name,
                             CASE WHEN check_redaction.placeholder = '' THEN 'is empty'
                                  WHEN length(check_redaction.placeholder) > 200 THEN 'is longer than 200 characters'
                                  ELSE 'contains control characters' END),
            HINT = 'mask_placeholder => ''[REDACTED]''';
    END IF;
END
$$;

-- The steps of a path, its column first; NULL when it is not well formed. src/capture/mask.rs reads what is stored.
CREATE FUNCTION threadline.path_steps(path text) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(CASE WHEN starts_with(m.part[1], '"') THEN replace(substr(m.part[1], 2, length(m.part[1]) - 2), '""', '"')
                          ELSE m.part[1] END ORDER BY m.place)
    FROM regexp_matches(path_steps.path, '("(?:[^"]|"")*"|[^".]+)(?:\.|$)', 'g') WITH ORDINALITY AS m (part, place)
    WHERE path_steps.path ~ '^("([^"]|"")*"|[^".]+)(\.("([^"]|"")*"|[^".]+))*$'
$$;

CREATE FUNCTION threadline.path_text(steps text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(CASE WHEN s.step ~ '^[^".]+$' THEN s.step ELSE '"' || replace(s.step, '"', '""') || '"' END, '.' ORDER BY s.place)
    FROM unnest(path_text.steps) WITH ORDINALITY AS s (step, place)
$$;

-- Whether values of a type are JSON documents, or arrays of them, behind whatever domains (types::holds_json).
CREATE FUNCTION threadline.holds_json(type_oid oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE inner_type AS (
        SELECT holds_json.type_oid AS oid
        UNION
        SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END
        FROM inner_type AS i JOIN pg_type AS t ON t.oid = i.oid
        WHERE t.typtype = 'd' OR (t.typlen = -1 AND t.typelem <> 0)
    )
    SELECT EXISTS (SELECT FROM inner_type AS i WHERE i.oid IN ('json'::regtype, 'jsonb'::regtype))
$$;

-- What a caller's mask names: whole columns (named_columns checks them), and paths into JSON columns. A name that is a
-- column's as it stands is that column, dots and all.
CREATE FUNCTION threadline.named_masks(target regclass, mask text[], OUT columns name[], OUT paths text[], OUT attnums int2[])
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted    text;
    steps     text[];
    attribute record;
BEGIN
    columns := '{}';
    paths := '{}';
    attnums := '{}';
    FOREACH wanted IN ARRAY named_masks.mask LOOP
        steps := threadline.path_steps(wanted);
        SELECT a.attname, a.attnum, format_type(a.atttypid, a.atttypmod) AS type, threadline.holds_json(a.atttypid) AS holds_json INTO attribute
        FROM pg_attribute AS a
        WHERE a.attrelid = named_masks.target AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attname::text = coalesce(steps[1], split_part(wanted, '.', 1));
        IF NOT FOUND OR cardinality(steps) = 1
           OR EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = named_masks.target AND a.attname = wanted::name AND a.attnum > 0 AND NOT a.attisdropped) THEN
            columns := array_append(columns, wanted::name);
            CONTINUE;
        END IF;
        IF steps IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('path %s named in mask is not well formed', wanted),
                DETAIL = 'A path is a column and keys, separated by dots. A key that is empty or holds a dot or a quote stands in double quotes, doubled inside.',
                HINT = format('SELECT threadline.audit_enable(%L, mask => ARRAY[%L]);', threadline.qualified_name(named_masks.target),
                              threadline.path_text(ARRAY[attribute.attname::text, 'a.key', 'inside']));
        END IF;
        IF NOT attribute.holds_json THEN
            RAISE EXCEPTION USING
                ERRCODE = 'datatype_mismatch',
                MESSAGE = format('path %s named in mask leads into column "%s" of table %s, which is of type %s', wanted, attribute.attname,
                                 threadline.qualified_name(named_masks.target), attribute.type),
                DETAIL = 'Paths lead into columns of type json and jsonb and arrays of them, not into documents inside a composite.',
                HINT = format('Mask the whole column: SELECT threadline.audit_enable(%L, mask => %L);',
                              threadline.qualified_name(named_masks.target), ARRAY[attribute.attname]);
        END IF;
        IF threadline.path_text(steps) <> ALL (paths) THEN
            paths := array_append(paths, threadline.path_text(steps));
            attnums := array_append(attnums, attribute.attnum);
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION threadline.path_columns(paths text[]) RETURNS name[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg((threadline.path_steps(p.path))[1]::name ORDER BY p.place), '{}')
    FROM unnest(path_columns.paths) WITH ORDINALITY AS p (path, place)
$$;

-- The paths that recorded ones stand for now: their columns may have been renamed.
CREATE FUNCTION threadline.followed_paths(table_id integer, target regclass, known text[], known_attnums int2[],
                                          OUT paths text[], OUT attnums int2[])
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(f.path ORDER BY f.place, f.path), '{}'), coalesce(array_agg(f.attnum ORDER BY f.place, f.path), '{}')
    FROM (
        SELECT threadline.path_text(array_prepend(c.column_name::text, s.steps[2:])) AS path, c.attnum, min(c.ordinal) AS place
        FROM threadline.followed_columns(followed_paths.table_id, followed_paths.target, threadline.path_columns(followed_paths.known),
                                         followed_paths.known_attnums, 'path') AS c
        CROSS JOIN LATERAL threadline.path_steps(followed_paths.known[c.ordinal]) AS s (steps)
        GROUP BY 1, 2
    ) AS f
$$;

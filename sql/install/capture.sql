-- Putting tables under capture and taking them out. Only the extension's owner may call these: audit_enable
-- and audit_disable check that the caller owns the table and then call them with the owner's rights.

-- Every session holds a plan of each table it writes; this tells them all to build it again.
CREATE FUNCTION threadline.captured_table_changed() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Rows of dropped tables, and of tables a dump knew by a number only, point nowhere.
    PERFORM threadline.invalidate_relation(c.oid)
    FROM pg_class AS c
    WHERE c.oid IN (NEW.relation, OLD.relation) AND c.relkind IN ('r', 'p');
    RETURN NULL;
END
$$;

CREATE TRIGGER captured_table_changed AFTER INSERT OR UPDATE OR DELETE ON threadline.captured_table
    FOR EACH ROW EXECUTE FUNCTION threadline.captured_table_changed();

CREATE FUNCTION threadline.qualified_name(target regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = qualified_name.target
$$;

-- The record of a table itself, not of the partitioned table it may belong to. In a restored database a
-- dropped table's row may hold another table's number, hence the name first.
CREATE FUNCTION threadline.captured_id(target regclass) RETURNS integer
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.table_id
    FROM threadline.captured_table AS t
    JOIN pg_class AS c ON c.oid = t.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE t.relation = captured_id.target
    ORDER BY (t.schema_name = n.nspname AND t.table_name = c.relname) DESC, t.table_id DESC
    LIMIT 1
$$;

CREATE FUNCTION threadline.captured_ancestor(target regclass) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.relid
    FROM pg_partition_ancestors(captured_ancestor.target) AS a
    JOIN threadline.captured_table AS t ON t.table_id = threadline.captured_id(a.relid) AND t.enabled
    WHERE a.relid <> captured_ancestor.target
    LIMIT 1
$$;

-- The columns that recorded names and attribute numbers stand for now. A name is found under its name; a
-- column the newest recorded shape knows by another name was renamed, and so was one that it has in the place
-- in question (list: key, exclude, mask, path) under the name of now. Restored tables may have other
-- numbers, so a number alone counts only while no shape is recorded, where it can only redact too much.
CREATE FUNCTION threadline.followed_columns(table_id integer, target regclass, names name[], attnums int2[], list text)
RETURNS TABLE (ordinal bigint, column_name name, attnum int2, preference integer)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH shape AS (
        SELECT v.columns, v.key_columns
        FROM threadline.table_version AS v
        WHERE v.table_id = followed_columns.table_id
        ORDER BY v.version DESC
        LIMIT 1
    )
    SELECT k.ordinal, a.attname, a.attnum,
           CASE WHEN known.renamed AND a.attnum = k.attnum THEN 1 WHEN a.attname = k.name THEN 2 ELSE 3 END
    FROM unnest(followed_columns.names, followed_columns.attnums) WITH ORDINALITY AS k (name, attnum, ordinal)
    JOIN pg_attribute AS a
        ON a.attrelid = followed_columns.target AND a.attnum > 0 AND NOT a.attisdropped
       AND (a.attname = k.name OR a.attnum = k.attnum)
    CROSS JOIN LATERAL (
        SELECT (SELECT bool_or((c.value ->> 'attnum')::int2 = a.attnum)
                           AND (NOT bool_or(c.value ->> 'name' = a.attname)
                                OR bool_or(c.value ->> 'attnum' = a.attnum::text AND c.value ->> 'name' = a.attname
                                           AND CASE followed_columns.list WHEN 'key' THEN shape.key_columns[k.ordinal] = a.attname
                                                    -- A document that has become a text is masked as a whole.
                                                    WHEN 'path' THEN coalesce(c.value ->> 'redact' IN ('path', 'mask'), false)
                                                    ELSE coalesce(c.value ->> 'redact' = followed_columns.list, false) END))
                FROM shape, jsonb_array_elements(shape.columns) AS c (value)) AS renamed
    ) AS known
    WHERE a.attname = k.name OR coalesce(known.renamed, true)
$$;

-- As lists: every column a redaction stands for, and one column for each of a key.
CREATE FUNCTION threadline.followed_redaction(table_id integer, target regclass, names name[], attnums int2[], list text)
RETURNS int2[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT f.attnum ORDER BY f.attnum), '{}')
    FROM threadline.followed_columns(followed_redaction.table_id, followed_redaction.target,
                                     followed_redaction.names, followed_redaction.attnums, followed_redaction.list) AS f
$$;

CREATE FUNCTION threadline.followed_key(table_id integer, target regclass, names name[], attnums int2[])
RETURNS int2[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(one.attnum ORDER BY one.ordinal), '{}')
    FROM (
        SELECT DISTINCT ON (f.ordinal) f.ordinal, f.attnum
        FROM threadline.followed_columns(followed_key.table_id, followed_key.target,
                                         followed_key.names, followed_key.attnums, 'key') AS f
        ORDER BY f.ordinal, f.preference
    ) AS one
$$;

CREATE FUNCTION threadline.column_names(target regclass, attnums int2[]) RETURNS name[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(a.attname ORDER BY k.ordinal), '{}')
    FROM unnest(column_names.attnums) WITH ORDINALITY AS k (attnum, ordinal)
    JOIN pg_attribute AS a ON a.attrelid = column_names.target AND a.attnum = k.attnum
$$;

CREATE FUNCTION threadline.check_capturable(target regclass) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    object   record;
    kind     text;
    foreign_partition regclass;
BEGIN
    IF check_capturable.target IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'no table was named',
            HINT = 'SELECT threadline.audit_enable(''public.orders'');';
    END IF;
    SELECT c.relkind, c.relpersistence, n.nspname, format('%I.%I', n.nspname, c.relname) AS name INTO object
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = check_capturable.target;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = format('relation with OID %s does not exist', check_capturable.target::oid);
    END IF;
    kind := CASE
        WHEN object.nspname IN ('pg_catalog', 'information_schema', 'pg_toast') THEN 'a system catalog'
        WHEN object.nspname = 'threadline' THEN 'a part of the audit storage'
        WHEN object.relkind IN ('r', 'p') AND object.relpersistence = 't' THEN 'a temporary table'
        WHEN object.relkind IN ('r', 'p') THEN NULL
        WHEN object.relkind = 'v' THEN 'a view'
        WHEN object.relkind = 'm' THEN 'a materialized view'
        WHEN object.relkind = 'f' THEN 'a foreign table'
        WHEN object.relkind = 'S' THEN 'a sequence'
        WHEN object.relkind IN ('i', 'I') THEN 'an index'
        WHEN object.relkind = 'c' THEN 'a composite type'
        ELSE 'no table'
    END;
    IF kind IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s cannot be put under capture: it is %s', object.name, kind),
            DETAIL = 'Ordinary and partitioned tables can.',
            HINT = CASE
                WHEN object.relkind IN ('v', 'm') THEN 'Capture the tables it reads: SELECT threadline.audit_enable(''schema.table'');'
                WHEN object.relkind IN ('i', 'I') THEN 'Name its table: SELECT threadline.audit_enable(''schema.table'');'
                WHEN object.relkind = 'f' THEN 'Capture the table on the server that holds it.'
                ELSE 'SELECT threadline.audit_enable(''schema.table'');'
            END;
    END IF;
    SELECT p.relid INTO foreign_partition
    FROM pg_partition_tree(check_capturable.target) AS p JOIN pg_class AS c ON c.oid = p.relid
    WHERE c.relkind = 'f'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s cannot be put under capture: its partition %s is a foreign table',
                             object.name, threadline.qualified_name(foreign_partition)),
            HINT = format('ALTER TABLE %s DETACH PARTITION %s;', object.name, threadline.qualified_name(foreign_partition));
    END IF;
END
$$;

-- The attribute numbers of columns a caller named, in the caller's order.
CREATE FUNCTION threadline.named_columns(target regclass, names name[], list text) RETURNS int2[]
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    attnums   int2[] := '{}';
    wanted    name;
    attribute record;
BEGIN
    FOREACH wanted IN ARRAY named_columns.names LOOP
        IF wanted IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'null_value_not_allowed',
                MESSAGE = format('%s contains NULL where a column name belongs', named_columns.list);
        END IF;
        SELECT a.attnum INTO attribute
        FROM pg_attribute AS a
        WHERE a.attrelid = named_columns.target AND a.attname = wanted AND a.attnum > 0 AND NOT a.attisdropped;
        IF FOUND THEN
            IF attribute.attnum <> ALL (attnums) THEN
                attnums := attnums || attribute.attnum;
            END IF;
            CONTINUE;
        END IF;
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_column',
            MESSAGE = format('column "%s" named in %s does not exist in table %s', wanted, named_columns.list,
                             threadline.qualified_name(named_columns.target)),
            HINT = (SELECT format('Its columns: %s.', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum))
                    FROM pg_attribute AS a
                    WHERE a.attrelid = named_columns.target AND a.attnum > 0 AND NOT a.attisdropped);
    END LOOP;
    RETURN attnums;
END
$$;

-- A lock is taken by name: the name must still be that of the table whose owner was checked.
CREATE FUNCTION threadline.check_still_named(target regclass, target_name text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass(check_still_named.target_name) IS DISTINCT FROM check_still_named.target THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_in_use',
            MESSAGE = format('table %s was renamed or dropped meanwhile', check_still_named.target_name),
            HINT = 'Try again.';
    END IF;
END
$$;

CREATE FUNCTION threadline.enable_capture(
    target           regclass,
    exclude          name[],
    mask             text[],
    mask_placeholder text,
    key_columns      name[],
    baseline         boolean,
    options          jsonb,
    for_schema       boolean DEFAULT false
)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target_name   text;
    was           threadline.captured_table;
    present_key   int2[];
    key           int2[];
    key_changed   boolean;
    excluded      int2[];
    masked        int2[];
    masks         record;
    paths         record;
    chosen        jsonb;
    others        boolean;
    armed         boolean;
    partition     regclass;
    started       timestamptz;
BEGIN
    PERFORM threadline.check_capturable(enable_capture.target);
    PERFORM threadline.check_options(enable_capture.options);
    target_name := threadline.qualified_name(enable_capture.target);
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', target_name);
    PERFORM threadline.check_still_named(enable_capture.target, target_name);
    IF threadline.captured_ancestor(enable_capture.target) IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('table %s is a partition of %s, which is under capture', target_name,
                             threadline.qualified_name(threadline.captured_ancestor(enable_capture.target))),
            DETAIL = 'Its changes are recorded there.',
            HINT = format('Set the policy there: SELECT threadline.audit_enable(%L);',
                          threadline.qualified_name(threadline.captured_ancestor(enable_capture.target)));
    END IF;

    SELECT * INTO was FROM threadline.captured_table AS t WHERE t.table_id = threadline.captured_id(enable_capture.target);
    chosen := coalesce(enable_capture.options, was.options, '{}');
    present_key := threadline.followed_key(was.table_id, enable_capture.target, was.key_columns, was.key_attnums);
    IF cardinality(enable_capture.key_columns) > 0 AND enable_capture.options ? 'key' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('table %s is given both key_columns and the option "key": "full_row"', target_name),
            HINT = format('Leave one out: SELECT threadline.audit_enable(%L, key_columns => %L);', target_name, enable_capture.key_columns);
    END IF;
    key := threadline.choose_key(enable_capture.target, enable_capture.key_columns, present_key,
                                 chosen ? 'key');
    key_changed := was.table_id IS NOT NULL AND (key <> present_key OR cardinality(key) <> cardinality(was.key_columns));
    IF cardinality(key) = 0 AND chosen ->> 'image' = 'delta' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('table %s has no key, so its updates cannot be recorded as deltas', target_name),
            DETAIL = 'A delta is a change of the row last recorded under the same key; where the whole row is the key, an update changes it.',
            HINT = format('SELECT threadline.audit_enable(%L, options => ''{"key": "full_row"}'');', target_name);
    END IF;
    excluded := coalesce(threadline.named_columns(enable_capture.target, enable_capture.exclude, 'exclude'),
                         threadline.followed_redaction(was.table_id, enable_capture.target, was.exclude, was.exclude_attnums, 'exclude'));
    SELECT * INTO masks FROM threadline.named_masks(enable_capture.target, enable_capture.mask);
    masked := coalesce(threadline.named_columns(enable_capture.target, masks.columns, 'mask'),
                       threadline.followed_redaction(was.table_id, enable_capture.target, was.mask, was.mask_attnums, 'mask'));
    SELECT coalesce(masks.paths, f.paths) AS names, coalesce(masks.attnums, f.attnums) AS attnums INTO paths
    FROM threadline.followed_paths(was.table_id, enable_capture.target, was.mask_paths, was.mask_path_attnums) AS f;
    PERFORM threadline.check_redaction(enable_capture.target, excluded, masked, paths.attnums, key, enable_capture.mask_placeholder);
    IF key_changed AND NOT coalesce(enable_capture.baseline, true) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the key of table %s has changed since it was put under capture', target_name),
            DETAIL = 'Its recorded rows bear the old key, so a new baseline is needed.',
            HINT = format('SELECT threadline.audit_enable(%L%s);', target_name,
                          ', key_columns => ' || quote_literal(enable_capture.key_columns::text));
    END IF;

    -- Making a partition of the log keeps its default partition locked until this transaction ends. Where
    -- nothing is captured yet that stands in nobody's way and spares the baseline a move; else it comes last.
    others := EXISTS (SELECT FROM threadline.captured_table AS t WHERE t.enabled AND t.table_id IS DISTINCT FROM was.table_id);
    IF NOT others AND NOT enable_capture.for_schema THEN
        PERFORM threadline.ensure_partitions();
    END IF;

    -- A partition captured by itself goes on as a part of this table.
    FOR partition IN
        SELECT p.relid
        FROM pg_partition_tree(enable_capture.target) AS p
        JOIN threadline.captured_table AS t ON t.table_id = threadline.captured_id(p.relid) AND t.enabled
        WHERE p.relid <> enable_capture.target
    LOOP
        PERFORM threadline.drop_capture(partition, jsonb_build_object('captured_as', target_name));
    END LOOP;

    armed := NOT EXISTS (SELECT FROM threadline.gaps_now(was.table_id, enable_capture.target, coalesce(was.options @> '{"fires": "always"}', false)));
    IF NOT armed THEN
        -- What went unrecorded since it was last in order is a gap; being armed closes it.
        PERFORM threadline.observe_capture(was.table_id);
    END IF;
    PERFORM threadline.arm_table(enable_capture.target, enable_capture.for_schema);
    PERFORM threadline.arm_partitions(enable_capture.target);
    -- Before the policy says so, so that nobody who watches sees them short of it; and the other way round below.
    IF chosen @> '{"fires": "always"}' THEN
        PERFORM threadline.set_firing(enable_capture.target, true);
    END IF;

    started := clock_timestamp();
    IF was.table_id IS NULL THEN
        INSERT INTO threadline.captured_table AS t
            (relation, origin, schema_name, table_name, key_columns, key_attnums, exclude, exclude_attnums, mask, mask_attnums,
             placeholder, options, enabled_at, has_deltas, by_schema, mask_paths, mask_path_attnums)
        SELECT enable_capture.target, threadline.origin(), n.nspname, c.relname,
               threadline.column_names(c.oid, key), key,
               threadline.column_names(c.oid, excluded), excluded,
               threadline.column_names(c.oid, masked), masked,
               coalesce(enable_capture.mask_placeholder, '[REDACTED]'), chosen, started,
               coalesce(chosen ->> 'image' = 'delta', false),
               enable_capture.for_schema, paths.names, paths.attnums
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = enable_capture.target
        RETURNING t.table_id INTO was.table_id;
        INSERT INTO threadline.gap (table_id, reason, until_at) VALUES (was.table_id, 'not_yet_enabled', started);
    ELSE
        UPDATE threadline.gap AS g SET until_at = started WHERE g.table_id = was.table_id AND g.until_at IS NULL;
        UPDATE threadline.captured_table AS t
        SET origin = threadline.origin(), schema_name = n.nspname, table_name = c.relname,
            key_columns = threadline.column_names(c.oid, key), key_attnums = key,
            exclude = threadline.column_names(c.oid, excluded), exclude_attnums = excluded,
            mask = threadline.column_names(c.oid, masked), mask_attnums = masked,
            placeholder = coalesce(enable_capture.mask_placeholder, t.placeholder),
            options = chosen, enabled = true, disabled_at = NULL,
            has_deltas = t.has_deltas OR coalesce(chosen ->> 'image' = 'delta', false),
            by_schema = enable_capture.for_schema, mask_paths = paths.names, mask_path_attnums = paths.attnums,
            rekeyed = t.rekeyed OR key_changed
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = enable_capture.target AND t.table_id = was.table_id
          -- A rerun that changes nothing makes nobody rebuild a plan.
          AND (t.origin, t.schema_name, t.table_name, t.key_columns, t.key_attnums, t.exclude, t.exclude_attnums,
               t.mask, t.mask_attnums, t.placeholder, t.options, t.enabled, t.by_schema, t.mask_paths, t.mask_path_attnums)
              IS DISTINCT FROM
              (threadline.origin(), n.nspname, c.relname, threadline.column_names(c.oid, key), key,
               threadline.column_names(c.oid, excluded), excluded, threadline.column_names(c.oid, masked), masked,
               coalesce(enable_capture.mask_placeholder, t.placeholder), chosen, true,
               enable_capture.for_schema, paths.names, paths.attnums);
    END IF;
    PERFORM threadline.set_firing(enable_capture.target, chosen @> '{"fires": "always"}');
    PERFORM threadline.note_intact(was.table_id, started);

    IF was.enabled IS DISTINCT FROM true OR NOT armed OR threadline.gap_since_baseline(was.table_id) THEN
        -- Rows written while nothing was recorded are no ground for a delta: capture starts with a version of its own.
        INSERT INTO threadline.table_version AS v
            (table_id, version, schema_name, table_name, key_columns, columns, from_change_id, recorded_at, origin, first_xid)
        SELECT v.table_id, v.version + 1, v.schema_name, v.table_name, v.key_columns, v.columns,
               nextval('threadline.change_id_seq'), clock_timestamp(), threadline.origin(), threadline.next_xid()
        FROM threadline.table_version AS v
        WHERE v.table_id = was.table_id
        ORDER BY v.version DESC LIMIT 1;
    END IF;
    IF cardinality(paths.names) > 0 OR cardinality(was.mask_paths) > 0 THEN
        -- What images hold depends on the paths: those before and after do not compare.
        PERFORM threadline.record_shape(enable_capture.target);
    END IF;
    IF coalesce(enable_capture.baseline, true)
       AND (was.enabled IS DISTINCT FROM true OR NOT armed OR key_changed
            OR NOT EXISTS (SELECT FROM threadline.baseline AS b WHERE b.table_id = was.table_id)
            OR threadline.gap_since_baseline(was.table_id)
            OR threadline.keys_outdated(was.table_id, enable_capture.target))
    THEN
        PERFORM threadline.take_baseline(was.table_id, enable_capture.target);
    END IF;
    IF was.enabled IS DISTINCT FROM true OR NOT armed THEN
        PERFORM threadline.note_partitions(was.table_id, enable_capture.target);
    END IF;
    IF others AND NOT enable_capture.for_schema THEN
        PERFORM threadline.ensure_partitions();
    END IF;
END
$$;

CREATE FUNCTION threadline.disable_capture(target regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target_name CONSTANT text := threadline.qualified_name(disable_capture.target);
    parent      regclass;
BEGIN
    IF target_name IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = CASE WHEN disable_capture.target IS NULL THEN 'null_value_not_allowed' ELSE 'undefined_table' END,
            MESSAGE = CASE WHEN disable_capture.target IS NULL THEN 'no table was named'
                           ELSE format('relation with OID %s does not exist', disable_capture.target::oid) END,
            HINT = 'SELECT threadline.audit_disable(''public.orders'');';
    END IF;
    IF NOT EXISTS (SELECT FROM threadline.captured_table AS t
                   WHERE t.table_id = threadline.captured_id(disable_capture.target) AND t.enabled) THEN
        parent := threadline.captured_ancestor(disable_capture.target);
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = CASE WHEN parent IS NULL THEN format('table %s is not under capture', target_name)
                           ELSE format('table %s is captured as a partition of %s', target_name, threadline.qualified_name(parent)) END,
            HINT = CASE WHEN parent IS NULL THEN 'Tables under capture: SELECT table_schema, table_name FROM threadline.audit_tables WHERE enabled;'
                        ELSE format('SELECT threadline.audit_disable(%L);', threadline.qualified_name(parent)) END;
    END IF;
    -- Dropping a trigger needs this lock: taken at once, it cannot deadlock on the way up from a weaker one.
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', target_name);
    PERFORM threadline.check_still_named(disable_capture.target, target_name);
    PERFORM threadline.drop_capture(disable_capture.target, NULL);
END
$$;

-- Which columns tell a table's rows apart.

-- Whether an index is one that a key can rest on: unique at every moment, for every row, over columns.
CREATE FUNCTION threadline.is_usable_key(i pg_index) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
       AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) AS n
                       JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n]
                       WHERE NOT a.attnotnull)
$$;

-- The primary key; without one what the caller names, what was the key before, or the index that the owner chose as REPLICA
-- IDENTITY; without any the whole row, an empty list, where that is allowed.
CREATE FUNCTION threadline.choose_key(target regclass, key_columns name[], present int2[], full_row boolean) RETURNS int2[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target_name CONSTANT text := threadline.qualified_name(choose_key.target);
    primary_key record;
    wanted      int2[];
    names       text;
    nullable    text;
BEGIN
    SELECT i.indimmediate, ARRAY(SELECT i.indkey[n] FROM generate_series(0, i.indnkeyatts - 1) AS n ORDER BY n) AS attnums
    INTO primary_key
    FROM pg_index AS i
    WHERE i.indrelid = choose_key.target AND i.indisprimary AND i.indisvalid;

    IF cardinality(choose_key.key_columns) > 0 THEN
        wanted := threadline.named_columns(choose_key.target, choose_key.key_columns, 'key_columns');
        IF primary_key.indimmediate AND NOT (wanted @> primary_key.attnums AND wanted <@ primary_key.attnums) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('key_columns of table %s differ from its primary key', target_name),
                DETAIL = format('Its primary key is (%s).',
                                array_to_string(threadline.column_names(choose_key.target, primary_key.attnums), ', ')),
                HINT = format('Leave them out: SELECT threadline.audit_enable(%L);', target_name);
        END IF;
        -- The same columns named in another order are the same key, and must be written the same way.
        IF wanted @> choose_key.present AND wanted <@ choose_key.present THEN
            wanted := choose_key.present;
        END IF;
    END IF;
    IF primary_key.indimmediate THEN
        RETURN primary_key.attnums;
    END IF;
    IF wanted IS NULL AND choose_key.key_columns IS NULL AND cardinality(choose_key.present) > 0
       AND (NOT choose_key.full_row OR threadline.is_unique_key(choose_key.target, choose_key.present)) THEN
        wanted := choose_key.present;
    END IF;
    IF wanted IS NULL THEN
        SELECT ARRAY(SELECT i.indkey[n] FROM generate_series(0, i.indnkeyatts - 1) AS n ORDER BY n) INTO wanted
        FROM pg_index AS i
        WHERE i.indrelid = choose_key.target AND i.indisreplident AND NOT i.indisprimary AND threadline.is_usable_key(i);
    END IF;
    IF wanted IS NULL AND choose_key.full_row THEN
        RETURN '{}';
    END IF;
    IF wanted IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_table_definition',
            MESSAGE = format(CASE WHEN primary_key.attnums IS NULL THEN 'table %s has no primary key'
                                  ELSE 'the primary key of table %s is deferrable' END, target_name),
            DETAIL = CASE WHEN primary_key.attnums IS NULL THEN 'Its rows could not be told apart in the history.'
                          ELSE 'Two rows could bear one key inside a transaction.' END,
            HINT = format('Declare one: ALTER TABLE %1$s ADD PRIMARY KEY (…); or name the columns of a unique index over NOT NULL columns: SELECT threadline.audit_enable(%2$L, key_columns => ''{…}''); or let the whole row be the key: SELECT threadline.audit_enable(%2$L, options => ''{"key": "full_row"}'');',
                          target_name, target_name);
    END IF;

    names := array_to_string(ARRAY(SELECT quote_ident(n) FROM unnest(threadline.column_names(choose_key.target, wanted)) AS n), ', ');
    -- PostgreSQL 18 has NOT NULL constraints that old rows need not satisfy.
    SELECT quote_ident(a.attname) INTO nullable
    FROM pg_attribute AS a
    WHERE a.attrelid = choose_key.target AND a.attnum = ANY (wanted)
      AND (NOT a.attnotnull
           OR EXISTS (SELECT FROM pg_constraint AS k
                      WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated))
    ORDER BY a.attnum
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_table_definition',
            MESSAGE = format('key column %s of table %s allows NULL', nullable, target_name),
            HINT = format('ALTER TABLE %s ALTER COLUMN %s SET NOT NULL;', target_name, nullable);
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index AS i
        WHERE i.indrelid = choose_key.target AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
          AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = cardinality(wanted)
          AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) AS n WHERE i.indkey[n] <> ALL (wanted))
    ) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_table_definition',
            MESSAGE = format('table %s has no unique index over exactly (%s)', target_name, names),
            DETAIL = 'It must be valid, checked immediately, without predicate and expressions.',
            HINT = format('CREATE UNIQUE INDEX ON %s (%s);', target_name, names);
    END IF;
    RETURN wanted;
END
$$;

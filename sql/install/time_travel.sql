-- A session in the past: temporary views over audit_as_of, named like the tables, which come first when a name is looked up.
-- The table pg_temp.threadline_time_travel stands for the journey. The views go with it, whatever drops it: time_return(),
-- ON COMMIT DROP, DISCARD, a rollback; its comment is the time.

CREATE TYPE threadline.audit_travel_row AS (
    travelling_at  timestamptz,
    ends           text,
    in_the_past    text[],
    before_horizon text[],
    in_the_present text[]
);
COMMENT ON TYPE threadline.audit_travel_row IS 'Where time_travel() has brought the session.';
COMMENT ON COLUMN threadline.audit_travel_row.ends IS 'When it is over: transaction (it was called inside a transaction block and goes with it) or time_return (at time_return(), DISCARD or disconnect).';
COMMENT ON COLUMN threadline.audit_travel_row.in_the_past IS 'Tables whose names mean their past now, if they are written without a schema.';
COMMENT ON COLUMN threadline.audit_travel_row.before_horizon IS 'Those of them whose history does not reach back to the time, or was purged: to read them is an error.';
COMMENT ON COLUMN threadline.audit_travel_row.in_the_present IS 'Tables that names still find and whose past the caller cannot read: not under capture, a partition, with children by inheritance, row security. Under threadline.uncaptured = refuse to read them is an error. Own temporary tables that hide a captured one are among them.';

-- A table that a name without a schema means.
CREATE TYPE threadline.travel_candidate AS (
    relation     regclass,
    has_past     boolean,
    reaches_back boolean
);

CREATE FUNCTION threadline.time_travelling_at() RETURNS timestamptz
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT pg_catalog.obj_description(c.oid, 'pg_class')::timestamptz
    FROM pg_catalog.pg_class c
    WHERE c.relname = 'threadline_time_travel' AND c.relnamespace = pg_catalog.pg_my_temp_schema();
END;

-- What reading the past under the tables' own names needs of a session.
CREATE FUNCTION threadline.require_temporary(p_caller text, p_instead text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING
            ERRCODE = 'read_only_sql_transaction',
            MESSAGE = format('%s() makes temporary views, which cannot be made %s', p_caller,
                             CASE WHEN pg_is_in_recovery() THEN 'on a standby' ELSE 'in a read-only transaction' END),
            HINT = p_instead;
    END IF;
    IF NOT has_database_privilege(current_database(), 'TEMPORARY') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('%s() makes temporary views, which role "%s" may not make in database "%s"', p_caller, current_user, current_database()),
            HINT = format('GRANT TEMPORARY ON DATABASE %I TO %I; or: %s', current_database(), current_user, p_instead);
    END IF;
END
$$;

-- Whether a name without a schema means a temporary relation before any other. Asked in the caller's search_path, when
-- there is a temporary schema.
CREATE FUNCTION threadline.temporary_comes_first() RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(pg_catalog.array_position(s.names, n.nspname) <= CASE WHEN s.names[1] = 'pg_catalog' THEN 2 ELSE 1 END, false)
    FROM pg_catalog.current_schemas(true) AS s (names)
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = pg_catalog.pg_my_temp_schema();
END;

CREATE FUNCTION threadline.require_temporary_first() RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT threadline.temporary_comes_first() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'search_path names pg_temp behind other schemas, so that temporary views could not come before their tables',
            DETAIL = pg_catalog.format('search_path is %s.', pg_catalog.current_setting('search_path')),
            HINT = 'Leave pg_temp out of it, or name it first: SET search_path = pg_temp, …;';
    END IF;
END
$$;

-- A read of such a table is not of its own rows alone, which are all that its history has.
CREATE FUNCTION threadline.has_children(p_relation regclass) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_inherits i ON i.inhparent = c.oid
        WHERE c.oid = has_children.p_relation AND c.relkind = 'r');
END;

-- The tables that names without a schema mean in the caller's search_path, as far as he may read them.
CREATE FUNCTION threadline.travel_candidates(p_horizon bigint) RETURNS SETOF threadline.travel_candidate
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT c.oid::regclass, t.table_id IS NOT NULL AND NOT threadline.has_children(c.oid), (b.base).first_change_id IS NOT NULL AND NOT (b.base).purged
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN threadline.readable_table t ON t.relation = c.oid
    CROSS JOIN LATERAL (
        SELECT CASE WHEN t.table_id IS NOT NULL THEN threadline.state_base(t.table_id, travel_candidates.p_horizon) END AS base
        OFFSET 0
    ) b
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'threadline')
      AND EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
      AND pg_catalog.pg_table_is_visible(c.oid)
      AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
    ORDER BY n.nspname, c.relname;
END;

-- The caller's own temporary relations that stand before a captured table.
CREATE FUNCTION threadline.travel_hidden() RETURNS text[]
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(pg_catalog.array_agg(DISTINCT pg_catalog.format('pg_temp.%I', c.relname)), '{}')
    FROM pg_catalog.pg_class c
    JOIN threadline.readable_table t ON t.table_name = c.relname AND t.relation IS NOT NULL
    WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r', 'p', 'v', 'S', 'f', 'm')
      AND pg_catalog.pg_table_is_visible(c.oid)
      AND t.table_schema = ANY (pg_catalog.current_schemas(false));
END;

-- In place of the rows of a table without a readable past, under threadline.uncaptured = refuse.
CREATE FUNCTION threadline.refuse_uncaptured(row_type anyelement) RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table constant text := threadline.qualified_name((SELECT y.typrelid FROM pg_type y WHERE y.oid = pg_typeof(row_type)));
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('table %s has no past that you can read', v_table),
        DETAIL = format('The session reads as of %s, and the setting threadline.uncaptured was refuse when it began to.', threadline.time_travelling_at()),
        HINT = format('SELECT threadline.audit_enable(%L); gives it one from then on. With its schema it is read as it is now: SELECT … FROM %s;', v_table, v_table);
END
$$;

CREATE FUNCTION threadline.refuse_past_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'read_only_sql_transaction',
        MESSAGE = format('"%s" is read only in the past', TG_TABLE_NAME),
        DETAIL = format('The session reads as of %s.', threadline.time_travelling_at()),
        HINT = 'SELECT threadline.time_return();';
END
$$;

-- The first names of a list, for messages.
CREATE FUNCTION threadline.some_names(names text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN array_to_string(some_names.names[1:20], ', ')
       || CASE WHEN cardinality(some_names.names) > 20 THEN format(' and %s more', cardinality(some_names.names) - 20) ELSE '' END;

CREATE FUNCTION threadline.tell_travel(p_state threadline.audit_travel_row) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_dropped constant text[] := (
        SELECT array_agg(format('%I.%I', t.table_schema, t.table_name) ORDER BY t.table_id)
        FROM threadline.readable_table t
        WHERE t.relation IS NULL AND t.enabled_at <= p_state.travelling_at);
BEGIN
    RAISE NOTICE USING
        MESSAGE = format('%s %s read as of %s until %s', cardinality(p_state.in_the_past),
                         CASE cardinality(p_state.in_the_past) WHEN 1 THEN 'table is' ELSE 'tables are' END, p_state.travelling_at,
                         CASE p_state.ends WHEN 'transaction' THEN 'the end of the transaction' ELSE 'time_return()' END),
        DETAIL = concat_ws(E'\n',
            'In the present stay: existing views, names with a schema, SQL functions with a BEGIN ATOMIC body, functions whose own search_path leads elsewhere, other sessions.',
            CASE WHEN cardinality(p_state.in_the_present) > 0
                 THEN CASE WHEN current_setting('threadline.uncaptured', true) = 'refuse' THEN 'Without a readable past, and so refused, your own temporary tables excepted: ' ELSE 'So do, without a readable past: ' END
                      || threadline.some_names(p_state.in_the_present) || '.' END,
            'Their history does not reach back, so reading them fails: ' || threadline.some_names(nullif(p_state.before_horizon, '{}')) || '.',
            'Dropped since, or later: ' || threadline.some_names(v_dropped) || '; see threadline.audit_table_as_of(name, at).'),
        HINT = 'Back to the present: SELECT threadline.time_return(); threadline''s own functions want table names with their schema meanwhile.';
END
$$;

CREATE FUNCTION threadline.shadow_tables(p_at timestamptz, p_tables threadline.travel_candidate[], p_hidden text[]) RETURNS threadline.audit_travel_row
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_time constant text := to_json(p_at) #>> '{}';
    v_refuse constant boolean := current_setting('threadline.uncaptured', true) IS NOT DISTINCT FROM 'refuse';
    v_state threadline.audit_travel_row;
    v_table threadline.travel_candidate;
    v_name name;
    v_view text;
BEGIN
    v_state.travelling_at := p_at;
    v_state.ends := CASE WHEN threadline.in_transaction_block() THEN 'transaction' ELSE 'time_return' END;
    v_state.in_the_past := '{}';
    v_state.before_horizon := '{}';
    v_state.in_the_present := p_hidden;
    EXECUTE 'CREATE TEMPORARY TABLE threadline_time_travel () ' || CASE v_state.ends WHEN 'transaction' THEN 'ON COMMIT DROP' ELSE '' END;
    EXECUTE format('COMMENT ON TABLE pg_temp.threadline_time_travel IS %L', v_time);
    FOREACH v_table IN ARRAY p_tables LOOP
        IF v_table.has_past THEN
            v_state.in_the_past := v_state.in_the_past || threadline.qualified_name(v_table.relation);
            IF NOT v_table.reaches_back THEN
                v_state.before_horizon := v_state.before_horizon || threadline.qualified_name(v_table.relation);
            END IF;
        ELSE
            v_state.in_the_present := v_state.in_the_present || threadline.qualified_name(v_table.relation);
            CONTINUE WHEN NOT v_refuse;
        END IF;
        SELECT c.relname INTO v_name FROM pg_class c WHERE c.oid = v_table.relation;
        v_view := format('pg_temp.%I', v_name);
        EXECUTE format(CASE WHEN v_table.has_past THEN 'CREATE VIEW %s AS SELECT r.* FROM threadline.audit_as_of(NULL::%s, %L::timestamptz) AS r'
                            ELSE 'CREATE VIEW %s AS SELECT r.* FROM threadline.refuse_uncaptured(NULL::%s) AS r' END,
                       v_view, threadline.qualified_name(v_table.relation), v_time);
        -- The first says so even where no row is found, the second is what makes the server ask.
        EXECUTE format('CREATE TRIGGER threadline_read_only BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT EXECUTE FUNCTION threadline.refuse_past_change()', v_view);
        EXECUTE format('CREATE TRIGGER threadline_read_only_row INSTEAD OF INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION threadline.refuse_past_change()', v_view);
        PERFORM threadline.drop_together(v_view::regclass, 'pg_temp.threadline_time_travel'::regclass);
    END LOOP;
    RETURN v_state;
END
$$;

-- No SET search_path here: the caller's own says what names mean.
CREATE FUNCTION threadline.time_travel(at timestamptz) RETURNS threadline.audit_travel_row
LANGUAGE plpgsql
AS $$
DECLARE
    v_horizon constant bigint := threadline.commit_horizon(time_travel.at);
    v_state threadline.audit_travel_row;
BEGIN
    PERFORM threadline.require_temporary('time_travel', 'SELECT * FROM threadline.audit_as_of(NULL::orders, ''2024-03-15 10:30Z'');');
    PERFORM threadline.end_travel();
    v_state := threadline.shadow_tables(time_travel.at, ARRAY(SELECT c FROM threadline.travel_candidates(v_horizon) AS c), threadline.travel_hidden());
    PERFORM threadline.require_temporary_first();
    PERFORM threadline.forget_plans();
    PERFORM threadline.tell_travel(v_state);
    RETURN v_state;
END
$$;

CREATE FUNCTION threadline.end_travel() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass('pg_temp.threadline_time_travel') IS NOT NULL THEN
        DROP TABLE pg_temp.threadline_time_travel;
        PERFORM threadline.forget_plans();
    END IF;
END
$$;

CREATE FUNCTION threadline.time_return() RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from constant timestamptz := threadline.time_travelling_at();
BEGIN
    IF v_from IS NOT NULL AND current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING
            ERRCODE = 'read_only_sql_transaction',
            MESSAGE = 'time_return() drops temporary views, which cannot be done in a read-only transaction',
            HINT = 'End the transaction first.';
    END IF;
    PERFORM threadline.end_travel();
    RETURN v_from;
END
$$;

COMMENT ON FUNCTION threadline.time_travel(timestamptz) IS
'Puts the session into the past: from now on the name of every captured table that the caller may read, written without a schema, means the table as of everything committed at or before a time. Queries, joins and reports run unchanged, prepared statements and the SQL inside PL/pgSQL functions too. Returns an audit_travel_row and says the same in a NOTICE. It is done with temporary views named like the tables, made by the caller with the caller''s rights, over audit_as_of(NULL::table, at): columns and types are the table''s, values, warnings and errors those of audit_as_of; INSERT, UPDATE and DELETE fail with 25006. Called again it moves to another time. Inside a transaction block it ends with the transaction, otherwise at time_return(), DISCARD or disconnect; a rollback undoes it.
In the present stay: existing views, names with a schema, SQL functions with a BEGIN ATOMIC body, functions whose own search_path leads elsewhere, other sessions, and tables whose past the caller cannot read, which the setting threadline.uncaptured = refuse turns into errors (55000). A whole row has the type of the view, not of the table. While it lasts the tables cannot be dropped, nor columns of theirs dropped or retyped, and threadline''s own functions want table names with their schema. Not in READ ONLY transactions and not on a standby (25006). Other errors: 22023 a time that is NULL or in the future, 42501 no right to make temporary tables, 55000 search_path names pg_temp behind other schemas.';
COMMENT ON FUNCTION threadline.time_return() IS
'Brings the session back from time_travel(). Returns the time it was at, NULL when it was in the present. Errors: 25006 in a READ ONLY transaction, 2BP01 something was made that depends on the views, 55006 a query on them is still open.';
COMMENT ON FUNCTION threadline.time_travelling_at() IS
'The time that time_travel() has put the session at, NULL in the present.';

-- The captured table behind a row type, with the checks every typed form makes.
CREATE FUNCTION threadline.table_of_type(p_type regtype, OUT table_id integer, OUT relation regclass)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT y.typrelid INTO table_of_type.relation FROM pg_type y WHERE y.oid = p_type AND y.typtype = 'c';
    IF table_of_type.relation IS NULL OR table_of_type.relation = 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('type %s is not a table''s row type', p_type),
            HINT = 'Name the table by a typed NULL: SELECT * FROM threadline.audit_as_of(NULL::orders, ''2024-03-15 10:30Z'');';
    END IF;
    SELECT t.table_id INTO table_of_type.table_id
    FROM threadline.readable_table t WHERE t.relation = table_of_type.relation;
    IF table_of_type.table_id IS NULL THEN
        IF (SELECT c.relnamespace = pg_my_temp_schema() FROM pg_class c WHERE c.oid = table_of_type.relation) THEN
            PERFORM threadline.table_lookup(table_of_type.relation);
        END IF;
        IF has_table_privilege(table_of_type.relation, 'SELECT') AND NOT row_security_active(table_of_type.relation) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'undefined_object',
                MESSAGE = format('table "%s" has no recorded history', table_of_type.relation),
                DETAIL = 'A partition''s history is recorded under its partitioned table.',
                HINT = format('SELECT threadline.audit_enable(%L);', table_of_type.relation);
        END IF;
        PERFORM threadline.require_readable(NULL, table_of_type.relation);
    END IF;
END
$$;

-- The typed rows of a source: see typed_statement.
CREATE FUNCTION threadline.typed_rows(p_row_type anyelement, p_table_id integer, p_relation regclass, p_source text) RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_lenient constant boolean := current_setting('threadline.uncastable', true) IS NOT DISTINCT FROM 'warn';
BEGIN
    RETURN QUERY EXECUTE threadline.typed_statement(p_table_id, p_relation, p_source, p_checked => v_lenient);
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    -- Once more, value by value, to say which it is.
    EXECUTE format('SELECT count(*) FROM (%s) r', threadline.typed_statement(p_table_id, p_relation, p_source, p_checked => true));
    RAISE;
END
$$;

-- A statement for them: a plan that is kept would have the table's columns of when it was made.
CREATE FUNCTION threadline.rows_statement(p_table_id integer, p_relation regclass, p_source text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN format('SELECT s.* FROM threadline.typed_rows(NULL::%s, %s, %L, %L) s', p_relation, p_table_id, p_relation, p_source);

CREATE FUNCTION threadline.audit_as_of(row_type anyelement, at timestamptz) RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE SUPPORT threadline.as_of_support SET search_path = pg_catalog, pg_temp
-- Texts are read in the settings they were written in.
SET jit = off SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
AS $$
DECLARE
    v_horizon constant bigint := threadline.commit_horizon(audit_as_of.at);
    v_table record;
    v_base threadline.state_base;
    v_rewind bigint;
BEGIN
    SELECT t.table_id, t.relation INTO v_table FROM threadline.table_of_type(pg_typeof(audit_as_of.row_type)) t;
    v_base := threadline.table_state_start(v_table.relation::text, v_table.table_id, audit_as_of.at, v_horizon);
    v_rewind := threadline.rewind_start(v_table.table_id, v_table.relation, v_base, audit_as_of.at, v_horizon);
    IF v_rewind IS NOT NULL THEN
        RETURN QUERY EXECUTE threadline.rewind_statement(v_table.table_id, v_table.relation)
        USING v_table.table_id, v_rewind, v_horizon;
    ELSE
        RETURN QUERY EXECUTE threadline.rows_statement(v_table.table_id, v_table.relation,
            format('threadline.table_state(%s, %s, %s) s', v_table.table_id, v_base.first_change_id, v_horizon));
    END IF;
END
$$;

-- Rows that a transaction still saw beside its own of the same key: another one had deleted them, or moved them away, after its
-- snapshot, which made room for them.
CREATE FUNCTION threadline.doubled_state(p_table_id integer, p_from bigint, p_horizon bigint, p_viewer threadline.viewer)
RETURNS TABLE (table_pk jsonb, schema_version integer, image jsonb, exact jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v_own jsonb[];
BEGIN
    IF NOT (p_viewer).sees_own OR threadline.was_full_row(p_table_id, p_from) THEN
        RETURN;
    END IF;
    SELECT array_agg(f.table_pk) INTO v_own
    FROM (SELECT DISTINCT ON (c.row_key, c.key) c.op, c.old_key, c.table_pk
          FROM threadline.readable_change c
          WHERE c.table_id = p_table_id AND c.id >= p_from AND c.id < p_horizon AND c.transaction_id = (p_viewer).transaction_id
          ORDER BY c.row_key, c.key, c.statement_no, c.op, c.id) f
    WHERE f.op = 4 OR f.op = 5 AND f.old_key IS NOT NULL;
    IF v_own IS NOT NULL THEN
        p_viewer.sees_own := false;
        RETURN QUERY
        SELECT s.* FROM threadline.table_state(p_table_id, p_from, p_horizon, p_viewer) s WHERE s.table_pk = ANY (v_own);
    END IF;
END
$$;

CREATE FUNCTION threadline.audit_as_seen_by(row_type anyelement, transaction_id uuid, include_own boolean DEFAULT false) RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE SUPPORT threadline.as_of_support SET search_path = pg_catalog, pg_temp
-- Texts are read in the settings they were written in.
SET jit = off SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
AS $$
DECLARE
    v_table record;
    v_seer record;
    v_viewer threadline.viewer;
    v_base threadline.state_base;
BEGIN
    SELECT t.table_id, t.relation INTO v_table FROM threadline.table_of_type(pg_typeof(audit_as_seen_by.row_type)) t;
    SELECT x.commit_no, x.committed_at, x.snapshot, x.origin, x.one_snapshot INTO v_seer
    FROM threadline.readable_transaction x WHERE x.id = audit_as_seen_by.transaction_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = '02000',
            MESSAGE = format('transaction %s is not in the record', coalesce(audit_as_seen_by.transaction_id::text, 'NULL')),
            DETAIL = 'It changed no captured table, or was purged.',
            HINT = 'SELECT id, committed_at, actor_ref, change_count FROM threadline.audit_transactions ORDER BY committed_at DESC LIMIT 20;';
    END IF;
    IF v_seer.commit_no IS NULL OR v_seer.snapshot IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('what transaction %s saw is not recorded', audit_as_seen_by.transaction_id),
            DETAIL = CASE WHEN v_seer.commit_no IS NULL THEN 'It has not ended.' ELSE 'It changed no captured table.' END,
            HINT = format('SELECT * FROM threadline.audit_as_of(NULL::%s, %L);', v_table.relation, coalesce(v_seer.committed_at, 'infinity'));
    END IF;
    IF NOT v_seer.one_snapshot THEN
        RAISE NOTICE USING
            MESSAGE = format('transaction %s ran in READ COMMITTED', audit_as_seen_by.transaction_id),
            DETAIL = 'This is what its last statement that changed a captured table could see when it started. An earlier statement may have seen less, and one that waited for a row has read it as it was then.';
    END IF;
    v_viewer := ROW(audit_as_seen_by.transaction_id, v_seer.snapshot, v_seer.origin, coalesce(audit_as_seen_by.include_own, false));
    v_base := threadline.table_state_start(v_table.relation::text, v_table.table_id, v_seer.committed_at, v_seer.commit_no, v_viewer);
    RETURN QUERY EXECUTE threadline.rows_statement(v_table.table_id, v_table.relation,
        format('(SELECT * FROM threadline.table_state(%1$s, %2$s, %3$s, %4$L) UNION ALL SELECT * FROM threadline.doubled_state(%1$s, %2$s, %3$s, %4$L)) s',
               v_table.table_id, v_base.first_change_id, v_seer.commit_no, v_viewer));
END
$$;
COMMENT ON FUNCTION threadline.audit_as_seen_by(anyelement, uuid, boolean) IS
    'The whole table as a transaction''s snapshot showed it, without (include_own: with) the transaction''s own changes, typed as audit_as_of(row_type, at): SELECT * FROM audit_as_seen_by(NULL::orders, ''<transaction id>''). By the recorded snapshot, not by any clock. Exact for REPEATABLE READ and SERIALIZABLE; a key may then be there twice, where the transaction inserted a row that another had deleted since its snapshot. In READ COMMITTED, where every statement has a snapshot of its own, it is that of the last statement that changed a captured table, and a NOTICE says so. Errors: 02000 unknown transaction, 55000 it has not ended, changed nothing, or the record does not reach back; the others as audit_as_of.';

-- The rows of audit_as_of(row_type, at) that have one of these keys, and perhaps others: the planner puts it in its place where
-- a query asks for keys (src/history/keyed.rs) and keeps the query's own condition. key_columns: their names when it
-- was planned, as a JSON array.
CREATE FUNCTION threadline.keyed_as_of(row_type anyelement, at timestamptz, key_columns text, keys text[]) RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp
-- Texts are read in the settings they were written in.
SET jit = off SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
-- To plan all that it asks anew takes longer than the answer.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_at_once threadline.row_known_at_once;
    v_table record;
    v_given text;
    v_found record;
    v_done text[] := '{}';
BEGIN
    IF cardinality(keyed_as_of.keys) = 1 THEN
        BEGIN
            v_at_once := threadline.typed_row_at_once(keyed_as_of.row_type, keyed_as_of.keys[1], keyed_as_of.at);
        EXCEPTION WHEN numeric_value_out_of_range OR string_data_right_truncation THEN
            RETURN;
        END;
        IF v_at_once.known THEN
            IF v_at_once.image IS NOT NULL THEN
                RETURN NEXT jsonb_populate_record(CASE WHEN false THEN keyed_as_of.row_type END, v_at_once.image);
            END IF;
            RETURN;
        END IF;
    END IF;
    SELECT t.table_id, t.relation, r.key_columns INTO v_table
    FROM threadline.table_of_type(pg_typeof(keyed_as_of.row_type)) t
    JOIN threadline.readable_table r ON r.table_id = t.table_id;
    IF to_jsonb(v_table.key_columns) IS DISTINCT FROM keyed_as_of.key_columns::jsonb THEN
        RETURN QUERY EXECUTE format('SELECT s.* FROM threadline.audit_as_of(NULL::%s, $1) s', v_table.relation) USING keyed_as_of.at;
        RETURN;
    END IF;
    FOREACH v_given IN ARRAY coalesce(keyed_as_of.keys, '{}') LOOP
        BEGIN
            SELECT k.key INTO v_found FROM threadline.key_lookup(v_table.relation, v_given) k;
        -- No row has a key that its column cannot hold.
        EXCEPTION WHEN numeric_value_out_of_range OR string_data_right_truncation THEN
            CONTINUE;
        END;
        CONTINUE WHEN v_found.key = ANY (v_done);
        v_done := v_done || v_found.key;
        RETURN QUERY EXECUTE format('SELECT s.* FROM threadline.typed_row_state(NULL::%s, $1, $2) s', v_table.relation) USING v_given, keyed_as_of.at;
    END LOOP;
END
$$;

-- The keys that a query asks for, as the planner writes them there. A NULL is equal to nothing.
CREATE FUNCTION threadline.one_key(key jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN one_key.key OPERATOR(pg_catalog.@?) '$.* ? (@ == null)' THEN '{}' ELSE ARRAY[one_key.key::text] END;

CREATE FUNCTION threadline.some_keys(key_column text, key_values anyarray) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT pg_catalog.array_agg(pg_catalog.jsonb_build_object(some_keys.key_column, v.value)::text)
    FROM pg_catalog.unnest(some_keys.key_values) AS v (value)
    WHERE v.value IS NOT NULL
$$;

CREATE FUNCTION threadline.typed_row_state(p_row_type anyelement, p_key text, p_at timestamptz) RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
-- Texts are read in the settings they were written in.
SET jit = off SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
-- To plan all that it asks anew takes longer than the answer.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_at_once threadline.row_known_at_once;
    v_table record;
    v_counted boolean;
    v_since timestamptz;
    v_state threadline.audit_row_state;
BEGIN
    v_at_once := threadline.typed_row_at_once(p_row_type, p_key, p_at);
    IF v_at_once.known THEN
        IF v_at_once.image IS NOT NULL THEN
            -- A NULL of the type: what an image does not have is NULL.
            RETURN NEXT jsonb_populate_record(CASE WHEN false THEN p_row_type END, v_at_once.image);
        END IF;
        RETURN;
    END IF;
    SELECT t.table_id, t.relation INTO v_table FROM threadline.table_of_type(pg_typeof(p_row_type)) t;
    v_counted := threadline.is_full_row(v_table.table_id);
    v_state := threadline.row_state(v_table.relation, p_key, p_at);
    IF v_state.status IN ('before_horizon', 'purged') THEN
        PERFORM threadline.refuse_unknown_past(v_table.relation::text, p_at, v_state.status = 'purged');
    END IF;
    IF NOT v_state.complete THEN
        v_since := (threadline.state_base(v_table.table_id, threadline.commit_horizon(p_at))).since;
        PERFORM threadline.report_incomplete(v_table.relation::text, v_table.table_id,
            CASE WHEN v_counted THEN v_since ELSE coalesce(v_state.committed_at, v_since) END, p_at,
            CASE WHEN v_counted THEN 'its rows of then and now cannot be matched' END);
    END IF;
    IF v_state.status = 'present' THEN
        RETURN QUERY EXECUTE threadline.rows_statement(v_table.table_id, v_table.relation,
            format('(SELECT c.schema_version, c.new_image AS image, c.new_exact AS exact FROM threadline.readable_change c WHERE c.id = %s) s', v_state.change_id));
    END IF;
END
$$;

CREATE FUNCTION threadline.audit_row_as_of(row_type anyelement, key text, at timestamptz) RETURNS SETOF anyelement
LANGUAGE sql STABLE ROWS 1
AS $$ SELECT s.* FROM threadline.typed_row_state(audit_row_as_of.row_type, audit_row_as_of.key, audit_row_as_of.at) s $$;

CREATE FUNCTION threadline.audit_row_as_of(row_type anyelement, key bigint, at timestamptz) RETURNS SETOF anyelement
LANGUAGE sql STABLE ROWS 1
AS $$ SELECT s.* FROM threadline.typed_row_state(audit_row_as_of.row_type, audit_row_as_of.key::text, audit_row_as_of.at) s $$;

CREATE FUNCTION threadline.audit_row_as_of(row_type anyelement, key uuid, at timestamptz) RETURNS SETOF anyelement
LANGUAGE sql STABLE ROWS 1
AS $$ SELECT s.* FROM threadline.typed_row_state(audit_row_as_of.row_type, audit_row_as_of.key::text, audit_row_as_of.at) s $$;

CREATE FUNCTION threadline.audit_row_as_of(row_type anyelement, key jsonb, at timestamptz) RETURNS SETOF anyelement
LANGUAGE sql STABLE ROWS 1
AS $$ SELECT s.* FROM threadline.typed_row_state(audit_row_as_of.row_type, threadline.key_text(audit_row_as_of.key), audit_row_as_of.at) s $$;

COMMENT ON FUNCTION threadline.audit_as_of(anyelement, timestamptz) IS
    'The whole table as of everything committed at or before a time, typed as the table is now: SELECT * FROM audit_as_of(NULL::orders, ''2024-03-15 10:30Z''). Every value is what it was to the last character of its text; renamed columns, labels and attributes are followed, columns that came later and redacted ones are NULL. A value that does not read as the type its column has now is an error that names row and column (22P02 and its like), or under threadline.uncastable = warn NULL with a WARNING. infinity: the latest committed state. Errors: 22023 a time that is NULL or in the future, 42704 no history, 42501 no right to read it, 55000 the record does not reach back or was purged; any other gap is a WARNING, or 55000 under threadline.incomplete = error.';
SELECT threadline.describe('audit_as_of', 3,
    'One row as of everything committed at or before a time: exactly one audit_row_state with status present, deleted, never_seen, before_horizon or purged. key: the key column''s value, or a JSON object naming every key column; of a table without a key (full_row) the whole row as recorded, or its table_pk: present while there is at least one such row. infinity: the latest committed state. Errors: 22023 wrong key, or a time that is NULL or in the future, 42704 no history, 42501 no right to read it.');
SELECT threadline.describe('audit_row_as_of', 3,
    'One row as of everything committed at or before a time, typed as the table is now; empty when it did not exist: SELECT * FROM audit_row_as_of(NULL::orders, 42, ''2024-03-15 10:30Z''). Errors and warnings as audit_as_of(row_type, at).');
COMMENT ON FUNCTION threadline.audit_table_as_of(text, timestamptz) IS
    'The whole table as of everything committed at or before a time, in the shape of then: key and row as JSON. Also for a dropped table, by its last name, and for a time before a table of that name was made anew. Errors and warnings as audit_as_of(row_type, at).';

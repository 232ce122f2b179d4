-- What happened to a row, by an actor, in a transaction.

CREATE TYPE threadline.audit_history_row AS (
    id             bigint,
    transaction_id uuid,
    table_schema   text,
    table_name     text,
    table_pk       jsonb,
    old_pk         jsonb,
    op             text,
    changed_fields text[],
    changed_from   jsonb,
    data_after     jsonb,
    captured_at    timestamptz,
    statement_no   integer,
    schema_version integer,
    committed_at   timestamptz,
    actor_ref      jsonb,
    action_name    text,
    correlation_id text,
    request_id     text,
    job_id         text,
    complete       boolean
);
COMMENT ON TYPE threadline.audit_history_row IS 'A change (see audit_change_row) with who made it and why.';
COMMENT ON COLUMN threadline.audit_history_row.action_name IS 'The last action recorded in the change''s transaction.';
COMMENT ON COLUMN threadline.audit_history_row.complete IS 'False when changes of the table in the window asked for may be missing: see audit_gaps.';

-- A stretch of the log in which one row bore one key; NULL bounds are open. Both are inclusive, and compare
-- (statement_no, op) inside the bounding transaction and id outside it.
CREATE TYPE threadline.row_tenure AS (
    row_key        bigint,
    key            text,
    from_id        bigint,
    from_tx        uuid,
    from_statement integer,
    to_id          bigint,
    to_tx          uuid,
    to_statement   integer,
    to_op          smallint
);

-- A change, by where it stands; end_id: behind the last change of its transaction.
CREATE TYPE threadline.place_in_history AS (
    id             bigint,
    transaction_id uuid,
    statement_no   integer,
    op             smallint,
    end_id         bigint
);

CREATE FUNCTION threadline.require_readable(p_table_id integer, p_target regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM threadline.readable_table t WHERE t.table_id = require_readable.p_table_id) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for the history of table "%s"', p_target),
            DETAIL = 'A table''s history is readable with SELECT on the table, and only while none of its row security policies apply to the reader.',
            HINT = format('GRANT SELECT ON %s TO %I;', p_target, current_user);
    END IF;
END
$$;

-- Gaps that overlap (p_since, p_until].
CREATE FUNCTION threadline.gaps_between(p_table_id integer, p_since timestamptz, p_until timestamptz)
RETURNS SETOF threadline.readable_gap
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT g.*
    FROM threadline.readable_gap g
    WHERE g.table_id = gaps_between.p_table_id
      AND g.until_at > gaps_between.p_since
      AND g.since_at <= gaps_between.p_until;
END;

-- The key arguments of the public functions as the text that key_lookup reads.
CREATE FUNCTION threadline.key_text(key jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(key_text.key) = 'array' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a row key cannot be a JSON array',
            HINT = 'Give the key column''s value, or a JSON object that names every key column: ''{"order_id": 1, "line_no": 2}''.';
    END IF;
    RETURN CASE WHEN jsonb_typeof(key_text.key) = 'object' THEN key_text.key::text ELSE key_text.key #>> '{}' END;
END
$$;

CREATE FUNCTION threadline.require_limit(max_rows bigint) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF require_limit.max_rows < 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('max_rows must not be negative, got %s', require_limit.max_rows),
            HINT = 'For all rows give max_rows => NULL.';
    END IF;
END
$$;

CREATE FUNCTION threadline.row_key_of(p_relation regclass, p_key_columns name[], p_key text) RETURNS bigint
LANGUAGE sql STABLE
RETURN CASE WHEN pg_catalog.cardinality(row_key_of.p_key_columns) = 0 THEN threadline.digest_row_key(row_key_of.p_key)
            ELSE (SELECT k.row_key
                  FROM threadline.readable_table t
                  CROSS JOIN LATERAL threadline.key_lookup(t.relation, threadline.key_object(t.key_columns, row_key_of.p_key)::text) k
                  WHERE t.relation = row_key_of.p_relation AND t.key_columns = row_key_of.p_key_columns) END;

-- The last change of a key among those with id >= p_from that transactions up to p_horizon committed; with a NULL
-- horizon, among all that the caller sees, its own included. A mark that the row fell to counts as its change. One descent of the row index: only one transaction
-- at a time can hold a row, so at most the newest transaction found is too late and skipped.
CREATE FUNCTION threadline.latest_change(p_table_id integer, p_row_key bigint, p_key text, p_from bigint, p_horizon bigint)
RETURNS threadline.readable_change
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_from constant bigint := coalesce(p_from, 0);
    v_below constant bigint := coalesce(p_horizon, 9223372036854775807);
    v_found threadline.readable_change;
    v_mark threadline.readable_change;
    v_tx record;
    v_skipped uuid[] := '{}';
BEGIN
    LOOP
        SELECT c.* INTO v_found
        FROM threadline.readable_change_newest c
        WHERE c.table_id = p_table_id AND c.row_key = p_row_key AND c.key = p_key
          AND c.id >= v_from AND c.id < v_below
          AND c.transaction_id <> ALL (v_skipped)
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        SELECT x.commit_no, x.change_count, lower(x.change_ids) AS first_id INTO v_tx
        FROM threadline.readable_transaction x
        WHERE x.id = v_found.transaction_id;
        EXIT WHEN p_horizon IS NULL OR v_tx.commit_no <= p_horizon;
        v_skipped := v_skipped || v_found.transaction_id;
    END LOOP;
    -- Ids do not order a row's changes inside one transaction.
    IF v_tx.change_count IS DISTINCT FROM 1 THEN
        SELECT c.* INTO v_found
        FROM threadline.readable_change_newest c
        WHERE c.table_id = p_table_id AND c.row_key = p_row_key AND c.key = p_key
          AND c.id >= greatest(v_from, v_tx.first_id) AND c.id <= v_found.id
          AND c.transaction_id = v_found.transaction_id
        ORDER BY c.statement_no DESC, c.op DESC, c.id DESC
        LIMIT 1;
    END IF;
    IF v_found.op >= 3 THEN
        v_mark := threadline.mark_after(v_found, p_horizon);
    END IF;
    IF v_mark.id IS NOT NULL THEN
        RETURN v_mark;
    END IF;
    RETURN v_found;
END
$$;

-- Under which keys, and when, the row that bears (or last bore) a key is to be looked for: the key itself, the
-- keys its last bearer moved on to, and for the p_max newest arrivals at the key those they came from.
CREATE FUNCTION threadline.row_tenures(p_table_id integer, p_relation regclass, p_key_columns name[], p_row_key bigint, p_key text, p_max integer)
RETURNS SETOF threadline.row_tenure
LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_tenure threadline.row_tenure;
    v_move threadline.readable_change;
    v_mark threadline.readable_change;
    v_end record;
    v_birth record;
    v_arrival record;
BEGIN
    v_tenure.row_key := p_row_key;
    v_tenure.key := p_key;
    RETURN NEXT v_tenure;

    -- Whether it moved on, or may have.
    IF coalesce(threadline.latest_op_at_once(p_relation, p_row_key, p_key), 2) = 2 THEN
        v_move := threadline.latest_change(p_table_id, p_row_key, p_key, NULL, NULL);
    END IF;
    WHILE v_move.op = 2 LOOP
        v_tenure := NULL;
        v_tenure.key := v_move.old_key;
        v_tenure.row_key := threadline.row_key_of(p_relation, p_key_columns, v_move.old_key);
        v_tenure.from_id := v_move.id;
        v_tenure.from_tx := v_move.transaction_id;
        v_tenure.from_statement := v_move.statement_no;
        SELECT c.id, c.transaction_id, c.statement_no, c.op INTO v_end
        FROM threadline.readable_change_oldest c
        WHERE c.table_id = p_table_id AND c.row_key = v_tenure.row_key AND c.key = v_tenure.key
          AND c.id >= (SELECT lower(x.change_ids) FROM threadline.readable_transaction x WHERE x.id = v_tenure.from_tx)
          AND c.op <= 2
          AND CASE WHEN c.transaction_id = v_tenure.from_tx THEN c.statement_no > v_tenure.from_statement ELSE c.id > v_tenure.from_id END
        LIMIT 1;
        IF FOUND THEN
            SELECT c.id, c.transaction_id, c.statement_no, c.op INTO v_end
            FROM threadline.readable_change c
            WHERE c.table_id = p_table_id AND c.row_key = v_tenure.row_key AND c.key = v_tenure.key
              AND c.id >= v_end.id AND c.transaction_id = v_end.transaction_id
              AND c.op <= 2
              AND (c.transaction_id <> v_tenure.from_tx OR c.statement_no > v_tenure.from_statement)
            ORDER BY c.statement_no, c.op
            LIMIT 1;
        END IF;
        v_mark := threadline.mark_after(v_move, NULL);
        IF v_mark.id IS NOT NULL
           AND (v_end.id IS NULL
                OR CASE WHEN v_mark.transaction_id = v_end.transaction_id THEN v_mark.statement_no <= v_end.statement_no
                        ELSE v_mark.id < v_end.id END) THEN
            v_end.id := v_mark.id;
            v_end.transaction_id := v_mark.transaction_id;
            v_end.statement_no := v_mark.statement_no;
            v_end.op := v_mark.op;
        END IF;
        IF v_end.id IS NOT NULL THEN
            v_tenure.to_id := v_end.id;
            v_tenure.to_tx := v_end.transaction_id;
            v_tenure.to_statement := v_end.statement_no;
            v_tenure.to_op := v_end.op;
        END IF;
        RETURN NEXT v_tenure;
        EXIT WHEN v_end.op IS DISTINCT FROM 2;
        SELECT c.* INTO v_move
        FROM threadline.readable_change c
        WHERE c.id = v_end.id;
    END LOOP;

    FOR v_arrival IN
        SELECT a.id, a.transaction_id, a.statement_no, a.old_key
        FROM threadline.readable_arrival a
        WHERE a.holder = -p_table_id AND a.table_id = p_table_id AND a.row_key = p_row_key AND a.key = p_key
        ORDER BY a.id DESC
        LIMIT p_max
    LOOP
        WHILE v_arrival.old_key <> p_key LOOP
            v_tenure := NULL;
            v_tenure.key := v_arrival.old_key;
            v_tenure.row_key := threadline.row_key_of(p_relation, p_key_columns, v_arrival.old_key);
            v_tenure.to_id := v_arrival.id;
            v_tenure.to_tx := v_arrival.transaction_id;
            v_tenure.to_statement := v_arrival.statement_no;
            v_tenure.to_op := 2;
            SELECT c.id, c.transaction_id, c.statement_no, c.old_key INTO v_birth
            FROM threadline.readable_change_newest c
            WHERE c.table_id = p_table_id AND c.row_key = v_tenure.row_key AND c.key = v_tenure.key
              AND c.id < (SELECT upper(x.change_ids) FROM threadline.readable_transaction x WHERE x.id = v_tenure.to_tx)
              AND (c.op = 4 OR c.op = 5 AND c.old_key IS NOT NULL)
              AND CASE WHEN c.transaction_id = v_tenure.to_tx THEN c.statement_no < v_tenure.to_statement ELSE c.id < v_tenure.to_id END
            LIMIT 1;
            IF FOUND THEN
                SELECT c.id, c.transaction_id, c.statement_no, c.old_key INTO v_birth
                FROM threadline.readable_change c
                WHERE c.table_id = p_table_id AND c.row_key = v_tenure.row_key AND c.key = v_tenure.key
                  AND c.id <= v_birth.id AND c.transaction_id = v_birth.transaction_id
                  AND c.id >= (SELECT lower(x.change_ids) FROM threadline.readable_transaction x WHERE x.id = v_birth.transaction_id)
                  AND (c.op = 4 OR c.op = 5 AND c.old_key IS NOT NULL)
                  AND (c.transaction_id <> v_tenure.to_tx OR c.statement_no < v_tenure.to_statement)
                ORDER BY c.statement_no DESC, c.op DESC
                LIMIT 1;
                v_tenure.from_id := v_birth.id;
                v_tenure.from_tx := v_birth.transaction_id;
                v_tenure.from_statement := v_birth.statement_no;
            END IF;
            RETURN NEXT v_tenure;
            EXIT WHEN v_birth.old_key IS NULL;
            v_arrival := v_birth;
        END LOOP;
    END LOOP;
END
$$;

-- The newest p_max changes of a tenure, before change p_before if one is given, newest first by id. The log's order is by
-- id, a transaction's own is not: the transaction in which the page ends is read to its end. Read through a cursor
-- that is planned for its first row, so that a page of a hot row costs a page and not the row's whole history.
CREATE FUNCTION threadline.row_page(p_table_id integer, p_tenure threadline.row_tenure, p_since timestamptz, p_until timestamptz, p_before bigint, p_max integer)
RETURNS SETOF threadline.readable_change
LANGUAGE plpgsql STABLE ROWS 100
SET search_path = pg_catalog, pg_temp SET jit = off SET cursor_tuple_fraction = 0
AS $$
DECLARE
    v_before threadline.place_in_history;
    v_changes CURSOR FOR
        SELECT c.*
        FROM threadline.readable_change_newest c
        WHERE c.table_id = p_table_id AND c.row_key = p_tenure.row_key AND c.key = p_tenure.key
          AND c.id < coalesce(v_before.end_id, p_before, 9223372036854775807)
          AND c.op <> 2
          AND c.captured_at >= p_since AND c.captured_at <= p_until
          AND (p_tenure.from_tx IS NULL
               OR CASE WHEN c.transaction_id = p_tenure.from_tx
                       THEN c.statement_no > p_tenure.from_statement OR c.statement_no = p_tenure.from_statement AND c.op > 2
                       ELSE c.id > p_tenure.from_id END)
          AND (p_tenure.to_tx IS NULL
               OR CASE WHEN c.transaction_id = p_tenure.to_tx
                       THEN c.statement_no < p_tenure.to_statement OR c.statement_no = p_tenure.to_statement AND c.op <= p_tenure.to_op
                       ELSE c.id < p_tenure.to_id END)
          AND (v_before.id IS NULL
               OR CASE WHEN c.transaction_id = v_before.transaction_id
                       THEN (c.statement_no, c.op, c.id) < (v_before.statement_no, v_before.op, v_before.id)
                       ELSE c.id < v_before.id END);
    v_last uuid;
    v_count bigint := 0;
BEGIN
    IF p_before IS NOT NULL THEN
        SELECT c.id, c.transaction_id, c.statement_no, c.op, upper(x.change_ids) INTO v_before
        FROM (SELECT c.* FROM threadline.readable_change c WHERE c.id = p_before OFFSET 0) c
        CROSS JOIN LATERAL (SELECT x.change_ids FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x;
    END IF;
    FOR v_change IN v_changes LOOP
        EXIT WHEN v_count >= p_max AND v_change.transaction_id IS DISTINCT FROM v_last;
        RETURN NEXT v_change;
        v_count := v_count + 1;
        v_last := v_change.transaction_id;
    END LOOP;
END
$$;

-- The marks that a row of a tenure fell to, with the bounds of row_page.
CREATE FUNCTION threadline.row_marks(p_table_id integer, p_tenure threadline.row_tenure, p_since timestamptz, p_until timestamptz, p_before bigint)
RETURNS SETOF threadline.readable_change
LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_before record;
    v_mark threadline.readable_change;
    v_prior threadline.readable_change;
BEGIN
    SELECT c.id, c.transaction_id, c.statement_no INTO v_before
    FROM threadline.readable_change c WHERE c.id = p_before;
    FOR v_mark IN
        SELECT c.*
        FROM threadline.readable_mark c
        WHERE c.table_id = p_table_id AND c.captured_at >= p_since AND c.captured_at <= p_until
          AND (p_tenure.from_tx IS NULL
               OR CASE WHEN c.transaction_id = p_tenure.from_tx THEN c.statement_no > p_tenure.from_statement ELSE c.id > p_tenure.from_id END)
          AND (p_tenure.to_tx IS NULL
               OR CASE WHEN c.transaction_id = p_tenure.to_tx THEN c.statement_no <= p_tenure.to_statement ELSE c.id <= p_tenure.to_id END)
          AND (p_before IS NULL
               OR CASE WHEN c.id = p_before THEN false
                       WHEN c.transaction_id = v_before.transaction_id THEN c.statement_no <= v_before.statement_no
                       ELSE c.id < p_before END)
    LOOP
        SELECT c.* INTO v_prior
        FROM threadline.readable_change c
        LEFT JOIN LATERAL (SELECT x.commit_no FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x ON true
        WHERE c.table_id = p_table_id AND c.row_key = p_tenure.row_key AND c.key = p_tenure.key
          AND CASE WHEN c.transaction_id = v_mark.transaction_id THEN c.statement_no < v_mark.statement_no ELSE c.id < v_mark.id END
        ORDER BY x.commit_no DESC NULLS FIRST, c.statement_no DESC, c.op DESC, c.id DESC
        LIMIT 1;
        IF v_prior.op >= 3 AND (threadline.mark_after(v_prior, NULL)).id = v_mark.id THEN
            RETURN NEXT v_mark;
        END IF;
    END LOOP;
END
$$;

-- The updates that made another row of one of a table without a key. Of identical rows one may have gone so and another
-- stayed, which the changes recorded under the key itself do not tell.
CREATE FUNCTION threadline.row_departures(p_table_id integer, p_row_key bigint, p_key text, p_since timestamptz, p_until timestamptz, p_before bigint)
RETURNS SETOF threadline.readable_change
LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_left record;
BEGIN
    FOR v_left IN
        SELECT DISTINCT c.transaction_id, c.old_key, threadline.row_key_of(t.relation, t.key_columns, c.old_key) AS row_key
        FROM threadline.readable_change c
        JOIN threadline.readable_table t ON t.table_id = c.table_id
        WHERE c.table_id = p_table_id AND c.row_key = p_row_key AND c.key = p_key AND c.op = 2
          AND c.captured_at >= p_since AND c.captured_at <= p_until AND c.id < coalesce(p_before, 9223372036854775807)
    LOOP
        RETURN QUERY
        SELECT c.*
        FROM threadline.readable_change c
        WHERE c.table_id = p_table_id AND c.row_key = v_left.row_key AND c.key = v_left.old_key
          AND c.transaction_id = v_left.transaction_id AND c.op = 5 AND c.old_key = p_key
          AND c.id < coalesce(p_before, 9223372036854775807);
    END LOOP;
END
$$;

CREATE FUNCTION threadline.row_history(p_target regclass, p_key text, p_since timestamptz, p_until timestamptz, p_max integer, p_before bigint)
RETURNS SETOF threadline.audit_history_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
-- To plan all that it asks anew takes longer than a page does.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_since constant timestamptz := coalesce(p_since, '-infinity');
    v_until constant timestamptz := coalesce(p_until, 'infinity');
    v_table_id constant integer := threadline.table_lookup(p_target);
    v_has_marks constant boolean := threadline.has_marks(p_target);
    v_key record;
    v_table record;
    v_complete boolean;
BEGIN
    PERFORM threadline.require_limit(p_max);
    SELECT t.relation, t.key_columns, t.enabled_at INTO v_table
    FROM threadline.readable_table t WHERE t.table_id = v_table_id;
    IF NOT FOUND THEN
        PERFORM threadline.require_readable(v_table_id, p_target);
    END IF;
    IF cardinality(v_table.key_columns) = 0 THEN
        v_key := threadline.key_given(p_target, p_key);
    ELSE
        v_key := threadline.key_lookup(p_target, p_key);
    END IF;
    -- What precedes capture itself is the horizon, not a gap in the history.
    v_complete := threadline.gapless_at_once(p_target, greatest(v_since, v_table.enabled_at), v_until);
    IF NOT v_complete THEN
        v_complete := NOT EXISTS (
            SELECT FROM threadline.gaps_between(v_key.table_id, greatest(v_since, v_table.enabled_at), v_until) g
            WHERE g.reason <> 'not_yet_enabled');
        v_complete := v_complete AND NOT threadline.identity_changed(v_key.table_id, v_since);
    END IF;
    IF v_complete AND cardinality(v_table.key_columns) = 0 THEN
        v_complete := coalesce((
            SELECT (threadline.row_count(v_key.table_id, v_key.row_key, v_key.key, b.first_change_id, 9223372036854775807)).lowest >= 0
            FROM threadline.state_base(v_key.table_id, NULL) b
            WHERE b.first_change_id IS NOT NULL), true);
    END IF;
    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT DISTINCT ON (c.id) c.*, t.key AS tenure_key
        FROM threadline.row_tenures(v_key.table_id, v_table.relation, v_table.key_columns, v_key.row_key, v_key.key, p_max) t
        CROSS JOIN LATERAL (
            SELECT p.* FROM threadline.row_page(v_key.table_id, t, v_since, v_until, p_before, p_max) p
            UNION ALL
            SELECT m.* FROM threadline.row_marks(v_key.table_id, t, v_since, v_until, p_before) m WHERE v_has_marks
            UNION ALL
            SELECT d.* FROM threadline.row_departures(v_key.table_id, t.row_key, t.key, v_since, v_until, p_before) d
            WHERE cardinality(v_table.key_columns) = 0 AND t.key = v_key.key
        ) c
        ORDER BY c.id
    )
    SELECT f.id, f.transaction_id, f.table_schema, f.table_name,
           coalesce(f.table_pk, threadline.key_object(v_table.key_columns, f.tenure_key)), f.old_pk, f.op_name, f.changed_fields,
           f.old_image, f.new_image, f.captured_at, f.statement_no, f.schema_version,
           x.committed_at, x.actor_ref, a.name,
           coalesce(x.correlation_id, a.correlation_id), coalesce(x.request_id, a.request_id), coalesce(x.job_id, a.job_id),
           v_complete
    FROM found f
    LEFT JOIN LATERAL (SELECT x.commit_no, x.committed_at, x.actor_ref, x.action_id, x.correlation_id, x.request_id, x.job_id
                       FROM threadline.readable_transaction x WHERE x.id = f.transaction_id OFFSET 0) x ON true
    LEFT JOIN LATERAL (SELECT a.* FROM threadline.readable_action a WHERE a.id = x.action_id OFFSET 0) a ON true
    ORDER BY x.commit_no DESC NULLS FIRST, f.statement_no DESC, f.op DESC, f.id DESC
    LIMIT p_max;
END
$$;

CREATE FUNCTION threadline.audit_history(target regclass, key text, since timestamptz = '-infinity', until timestamptz = 'infinity', max_rows integer = 200, before_change bigint = NULL)
RETURNS SETOF threadline.audit_history_row
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT h.* FROM threadline.row_history(audit_history.target, audit_history.key, audit_history.since, audit_history.until, audit_history.max_rows, audit_history.before_change) h;
END;

CREATE FUNCTION threadline.audit_history(target regclass, key bigint, since timestamptz = '-infinity', until timestamptz = 'infinity', max_rows integer = 200, before_change bigint = NULL)
RETURNS SETOF threadline.audit_history_row
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT h.* FROM threadline.row_history(audit_history.target, audit_history.key::text, audit_history.since, audit_history.until, audit_history.max_rows, audit_history.before_change) h;
END;

CREATE FUNCTION threadline.audit_history(target regclass, key uuid, since timestamptz = '-infinity', until timestamptz = 'infinity', max_rows integer = 200, before_change bigint = NULL)
RETURNS SETOF threadline.audit_history_row
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT h.* FROM threadline.row_history(audit_history.target, audit_history.key::text, audit_history.since, audit_history.until, audit_history.max_rows, audit_history.before_change) h;
END;

CREATE FUNCTION threadline.audit_history(target regclass, key jsonb, since timestamptz = '-infinity', until timestamptz = 'infinity', max_rows integer = 200, before_change bigint = NULL)
RETURNS SETOF threadline.audit_history_row
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT h.* FROM threadline.row_history(audit_history.target, threadline.key_text(audit_history.key), audit_history.since, audit_history.until, audit_history.max_rows, audit_history.before_change) h;
END;

CREATE FUNCTION threadline.actor_history(actor jsonb, since timestamptz = '-infinity', until timestamptz = 'infinity', max_rows integer = 50)
RETURNS SETOF threadline.audit_transaction_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET cursor_tuple_fraction = 0
AS $$
DECLARE
    -- Newest first through the index on commit time: the caller's own transaction has none yet and sorts first. A
    -- transaction commits after its first change, which bounds the search.
    v_transactions CURSOR FOR
        SELECT x.*
        FROM threadline.audit_transactions x
        WHERE (x.committed_at >= coalesce(actor_history.since, '-infinity') OR x.committed_at IS NULL)
          AND x.occurred_at >= coalesce(actor_history.since, '-infinity')
          AND x.occurred_at <= coalesce(actor_history.until, 'infinity')
          AND CASE WHEN actor_history.actor IS NULL THEN x.actor_ref IS NULL ELSE x.actor_ref @> actor_history.actor END
        ORDER BY x.committed_at DESC, x.commit_no DESC;
    v_count bigint := 0;
BEGIN
    PERFORM threadline.require_limit(actor_history.max_rows);
    FOR v_transaction IN v_transactions LOOP
        EXIT WHEN v_count >= actor_history.max_rows;
        RETURN NEXT v_transaction;
        v_count := v_count + 1;
    END LOOP;
END
$$;

CREATE FUNCTION threadline.audit_changes_for_transaction(transaction_id uuid)
RETURNS SETOF threadline.audit_change_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT c.id, c.transaction_id, c.table_schema, c.table_name, c.table_pk, c.old_pk, c.op_name, c.changed_fields,
           c.old_image, c.new_image, c.captured_at, c.statement_no, c.schema_version
    FROM (
        SELECT lower(r.ids) AS first_id, upper(r.ids) AS end_id
        FROM threadline.readable_transaction x
        CROSS JOIN LATERAL unnest(x.change_ids) AS r (ids)
        WHERE x.id = audit_changes_for_transaction.transaction_id
        OFFSET 0
    ) r
    CROSS JOIN LATERAL (
        SELECT c.*
        FROM threadline.readable_change c
        WHERE c.id >= r.first_id AND c.id < r.end_id
          AND c.transaction_id = audit_changes_for_transaction.transaction_id
          AND c.op <> 2
        OFFSET 0
    ) c
    ORDER BY c.statement_no, c.id;
END
$$;

SELECT threadline.describe('audit_history', 6,
    'The changes of one row, newest first, as audit_history_row. key: the key column''s value, or a JSON object naming every key column; of a table without a key (full_row) the whole row as recorded, or its table_pk: the changes of all identical rows. since and until bound captured_at, both inclusive; max_rows cuts the answer, and the id of its last row as before_change gives the next page. Follows the row through key changes, both ways. complete is false when changes of the table in the window may be missing. Errors: 42704 no history of the table, 22023 wrong key, 42501 no right to read it.');
COMMENT ON FUNCTION threadline.actor_history(jsonb, timestamptz, timestamptz, integer) IS
    'Transactions of an actor, newest first, as audit_transaction_row. actor is matched by containment: {"type":"user"} finds every user''s, {"type":"user","id":"7"} one user''s; NULL finds transactions that named no actor. since and until bound occurred_at, both inclusive.';
COMMENT ON FUNCTION threadline.audit_changes_for_transaction(uuid) IS
    'The changes of one transaction the caller may read, oldest first (statement_no, id), as audit_change_row. Empty for an unknown transaction.';

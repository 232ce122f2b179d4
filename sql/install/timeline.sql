-- What happened in all tables: by whom, for which request or job, newest or oldest first.
-- Transactions are chosen first, in commit order by index, some at a time; then their changes are read by their ids.

-- A chosen transaction, as far as a change is shown with it.
CREATE TYPE threadline.chosen_transaction AS (
    id             uuid,
    commit_no      bigint,
    committed_at   timestamptz,
    change_count   bigint,
    change_ids     int8multirange,
    actor_ref      jsonb,
    action_id      uuid,
    correlation_id text,
    request_id     text,
    job_id         text
);

-- Which transactions an actor, correlation, request or job choose, as SQL over x, a transaction. What one of a transaction's actions
-- says counts as said by the transaction. index_condition: the first id given, by an index on what applications say, in which
-- of an actor type and id stand, since who contains him has them too; NULL when no index leads. by_action: what an action said and its transaction
-- did not, a join of x; NULL when nothing can be.
CREATE TYPE threadline.selection AS (
    index_condition text,
    condition       text,
    by_action       text
);

CREATE FUNCTION threadline.selection_of(actor jsonb, correlation_id text, request_id text, job_id text) RETURNS threadline.selection
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_given record;
    v_too text := '';
    v_leads text;
    v_selection threadline.selection;
BEGIN
    IF selection_of.actor IS NOT NULL THEN
        v_too := format(' AND x.actor_ref @> %L::jsonb', selection_of.actor);
        IF jsonb_typeof(selection_of.actor -> 'type') = 'string' AND jsonb_typeof(selection_of.actor -> 'id') = 'string' THEN
            v_selection.index_condition := format('threadline.key_of_actor(x.actor_ref) = %s', threadline.key_of_actor(selection_of.actor));
        END IF;
    END IF;
    FOR v_given IN
        SELECT i.name, i.value, hashtext(i.value) AS hash
        FROM (VALUES (1, 'correlation_id', selection_of.correlation_id), (2, 'request_id', selection_of.request_id),
                     (3, 'job_id', selection_of.job_id)) AS i (n, name, value)
        WHERE i.value IS NOT NULL
        ORDER BY i.n
    LOOP
        IF v_leads IS NULL THEN
            v_leads := format('x.%I = %L', v_given.name, v_given.value);
            v_selection.index_condition := format('hashtext(x.%I) = %s', v_given.name, v_given.hash);
            v_selection.by_action := format('(SELECT DISTINCT a.transaction_id FROM threadline.readable_action a WHERE hashtext(a.%1$I) = %3$s AND a.%1$I = %2$L) a
                                             CROSS JOIN LATERAL (SELECT t.* FROM threadline.readable_transaction t WHERE t.id = a.transaction_id OFFSET 0) x
                                             WHERE (x.%1$I = %2$L) IS NOT TRUE', v_given.name, v_given.value, v_given.hash);
        ELSE
            v_too := v_too || format(' AND (x.%1$I = %2$L OR EXISTS (SELECT FROM threadline.readable_action b WHERE b.transaction_id = x.id AND b.%1$I = %2$L))',
                                     v_given.name, v_given.value);
        END IF;
    END LOOP;
    v_selection.condition := coalesce(v_leads, 'true') || v_too;
    v_selection.by_action := v_selection.by_action || v_too;
    RETURN v_selection;
END
$$;

CREATE FUNCTION threadline.commit_stretches(p_above bigint, p_below bigint, p_newest_first boolean) RETURNS TABLE (stretch integer)
    LANGUAGE c STABLE ROWS 10 AS 'MODULE_PATHNAME', 'commit_stretches';
COMMENT ON FUNCTION threadline.commit_stretches(bigint, bigint, boolean) IS 'Internal: the stretches from that of p_above to that of p_below for which the indexes on what applications say may have an entry, in either order. One that no transaction is in costs a descent.';

-- All transactions of a selection whose first change was captured at p_since or later, the caller's own open one too.
CREATE FUNCTION threadline.selected_transactions(p_selection threadline.selection, p_since timestamptz)
RETURNS TABLE (id uuid, commit_no bigint, occurred_at timestamptz, committed_at timestamptz, change_count bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_columns constant text := 'x.id, x.commit_no, x.occurred_at, x.committed_at, x.change_count';
BEGIN
    RETURN QUERY EXECUTE concat_ws(' UNION ALL ',
        CASE WHEN (p_selection).index_condition IS NOT NULL THEN
                 format('SELECT %s FROM threadline.commit_stretches(threadline.commits_since($1), 9223372036854775807, false) AS b (stretch)
                         CROSS JOIN LATERAL (SELECT x.* FROM threadline.readable_transaction x
                                             WHERE threadline.stretch_of_commit(x.commit_no) = b.stretch AND %s AND %s OFFSET 0) x
                         WHERE x.occurred_at >= $1', v_columns, (p_selection).index_condition, (p_selection).condition)
             ELSE
                 format('SELECT %s FROM threadline.readable_transaction x WHERE x.committed_at >= $1 AND x.occurred_at >= $1 AND %s', v_columns, (p_selection).condition) END,
        format('SELECT %s FROM threadline.pending_transaction() x WHERE x.occurred_at >= $1 AND %s', v_columns, (p_selection).condition),
        format('SELECT %s FROM ', v_columns) || (p_selection).by_action || ' AND x.occurred_at >= $1')
    USING p_since;
END
$$;

-- A statement for the next transactions of a selection with a commit_no between two numbers: an array of as many as make about p_want
-- changes, at least one; NULL when there are no more. p_time: the time of the transaction at which they begin. p_table_id: those alone that
-- changed the table, found by it.
CREATE FUNCTION threadline.choosing_statement(p_selection threadline.selection, p_table_id integer, p_above bigint, p_below bigint, p_time timestamptz,
                                              p_until timestamptz, p_newest_first boolean, p_want bigint)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_direction constant text := CASE WHEN p_newest_first THEN 'DESC' ELSE 'ASC' END;
    v_columns constant text := 'x.id, x.commit_no, x.committed_at, x.change_count, x.change_ids, x.actor_ref, x.action_id, x.correlation_id, x.request_id, x.job_id';
    v_bounds constant text := format('x.commit_no > %s AND x.commit_no < %s AND x.occurred_at <= %L', p_above, p_below, p_until);
    v_source text;
BEGIN
    -- Each source is cut by itself, since only so the planner reads no more of it than that.
    IF p_table_id IS NOT NULL THEN
        v_source := format('SELECT %s FROM (SELECT DISTINCT c.transaction_id FROM threadline.readable_change c WHERE c.table_id = %s) c
                            CROSS JOIN LATERAL (SELECT t.* FROM threadline.readable_transaction t WHERE t.id = c.transaction_id OFFSET 0) x
                            WHERE %s ORDER BY x.commit_no %s LIMIT %s', v_columns, p_table_id, v_bounds, v_direction, p_want);
    ELSIF (p_selection).index_condition IS NOT NULL THEN
        v_source := format('SELECT %s FROM threadline.commit_stretches(%s, %s, %L) AS b (stretch)
                            CROSS JOIN LATERAL (SELECT x.* FROM threadline.readable_transaction x
                                                WHERE threadline.stretch_of_commit(x.commit_no) = b.stretch AND %s AND %s AND %s
                                                ORDER BY x.commit_no %s LIMIT %s) x
                            LIMIT %9$s',
                           v_columns, p_above, p_below, p_newest_first, (p_selection).index_condition, (p_selection).condition, v_bounds, v_direction, p_want);
    ELSE
        -- By time, and as many more as neighbours may stand the other way round.
        v_source := format('SELECT %s FROM threadline.readable_transaction x WHERE x.committed_at %s %L AND %s AND %s ORDER BY x.committed_at %s, x.commit_no %6$s LIMIT %s',
                           v_columns, CASE WHEN p_newest_first THEN '<=' ELSE '>=' END,
                           CASE WHEN p_newest_first THEN coalesce((SELECT max(n.committed_at) FROM threadline.stamped_after(p_time) n), 'infinity')
                                ELSE coalesce((SELECT min(n.committed_at) FROM threadline.stamped_until(p_time) n), '-infinity') END,
                           v_bounds, (p_selection).condition, v_direction, p_want + 256);
    END IF;
    IF (p_selection).by_action IS NOT NULL AND p_table_id IS NULL THEN
        v_source := format('(%s) UNION ALL (SELECT %s FROM %s AND %s ORDER BY x.commit_no %s LIMIT %s)',
                           v_source, v_columns, (p_selection).by_action, v_bounds, v_direction, p_want);
    END IF;
    RETURN format('SELECT array_agg(ROW(t.id, t.commit_no, t.committed_at, t.change_count, t.change_ids, t.actor_ref, t.action_id,
                                         t.correlation_id, t.request_id, t.job_id)::threadline.chosen_transaction ORDER BY t.n)
                    FROM (SELECT x.*, row_number() OVER w AS n, sum(x.change_count) OVER w AS through
                          FROM (%s) x
                          WINDOW w AS (ORDER BY x.commit_no %s ROWS UNBOUNDED PRECEDING)) t
                    WHERE t.n = 1 OR t.n <= %s AND t.through - t.change_count < %3$s AND t.through <= 20000', v_source, v_direction, p_want);
END
$$;

-- The caller's own open transaction, if it is of the selection.
CREATE FUNCTION threadline.own_transaction(p_selection threadline.selection, p_until timestamptz) RETURNS threadline.chosen_transaction[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_row constant text := 'ROW(x.id, x.commit_no, x.committed_at, x.change_count, x.change_ids, x.actor_ref, x.action_id,
                                x.correlation_id, x.request_id, x.job_id)::threadline.chosen_transaction';
    v_chosen threadline.chosen_transaction[];
BEGIN
    EXECUTE format('SELECT array_agg(o.chosen) FROM (%s) o', concat_ws(' UNION ALL ',
        format('SELECT %s AS chosen FROM threadline.pending_transaction() x WHERE x.occurred_at <= $1 AND %s', v_row, (p_selection).condition),
        format('SELECT %s FROM ', v_row) || (p_selection).by_action || ' AND x.occurred_at <= $1 AND x.commit_no IS NULL'))
    INTO v_chosen USING p_until;
    RETURN v_chosen;
END
$$;

-- Changes of transactions, helper rows of key changes too: by their single ids, those given or all, or, where there are more, by the
-- ranges of them.
CREATE FUNCTION threadline.chosen_changes(p_chosen threadline.chosen_transaction[], p_table_id integer, p_op smallint, p_changed_field text, p_match jsonb, p_since timestamptz, p_until timestamptz,
                                          p_ids bigint[] DEFAULT NULL)
RETURNS SETOF threadline.readable_change
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
-- To plan it anew takes longer than a page does.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_transactions constant uuid[] := ARRAY(SELECT x.id FROM unnest(p_chosen) x);
    v_ranges constant int8range[] := ARRAY(SELECT r.ids FROM unnest(p_chosen) x CROSS JOIN LATERAL unnest(x.change_ids) AS r (ids));
    v_ids bigint[] := p_ids;
BEGIN
    IF p_ids IS NOT NULL OR (SELECT coalesce(sum(upper(r.ids) - lower(r.ids)), 0) FROM unnest(v_ranges) AS r (ids)) <= 50000 THEN
        v_ids := coalesce(p_ids, ARRAY(SELECT g FROM unnest(v_ranges) AS r (ids) CROSS JOIN LATERAL generate_series(lower(r.ids), upper(r.ids) - 1) AS g));
        RETURN QUERY
        SELECT c.*
        FROM threadline.readable_change c
        WHERE c.id = ANY (v_ids) AND c.transaction_id = ANY (v_transactions)
          AND (p_table_id IS NULL OR c.table_id = p_table_id)
          AND (p_op IS NULL OR c.op = p_op)
          AND c.captured_at >= p_since AND c.captured_at <= p_until
          AND (p_changed_field IS NULL OR p_changed_field = ANY (c.changed_fields))
          AND (p_match IS NULL OR c.new_image @> p_match OR coalesce(c.new_image, '{}') || c.old_image @> p_match);
    ELSE
        RETURN QUERY
        SELECT c.*
        -- The barrier of the view lets no function through that may tell what it is called with.
        FROM (SELECT lower(r.ids) AS first_id, upper(r.ids) AS end_id FROM unnest(v_ranges) AS r (ids) OFFSET 0) AS r
        CROSS JOIN LATERAL (
            SELECT c.*
            FROM threadline.readable_change c
            WHERE c.id >= r.first_id AND c.id < r.end_id AND c.transaction_id = ANY (v_transactions)
              AND (p_table_id IS NULL OR c.table_id = p_table_id)
              AND (p_op IS NULL OR c.op = p_op)
              AND c.captured_at >= p_since AND c.captured_at <= p_until
              AND (p_changed_field IS NULL OR p_changed_field = ANY (c.changed_fields))
              AND (p_match IS NULL OR c.new_image @> p_match OR coalesce(c.new_image, '{}') || c.old_image @> p_match)
            OFFSET 0
        ) c;
    END IF;
END
$$;

-- What precedes capture itself is the horizon, not a gap in what was captured.
CREATE FUNCTION threadline.gaps_in_window(p_table_id integer, p_since timestamptz, p_until timestamptz)
RETURNS SETOF threadline.readable_gap
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT g.*
    FROM threadline.readable_table t
    CROSS JOIN LATERAL threadline.gaps_between(t.table_id, greatest(gaps_in_window.p_since, t.enabled_at), gaps_in_window.p_until) g
    WHERE t.table_id = gaps_in_window.p_table_id AND g.reason <> 'not_yet_enabled';
END;

-- The number below which no transaction has a change captured since then: transactions commit after they capture.
CREATE FUNCTION threadline.commits_since(p_since timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_since = '-infinity' THEN
        RETURN 0;
    END IF;
    RETURN coalesce((
        SELECT min(n.commit_no) - 1 FROM threadline.stamped_after(p_since - interval '1 microsecond') n), 9223372036854775806);
END
$$;

-- The changes that pass all filters, in commit order and (statement_no, op, id) inside a transaction, either way round; the caller's
-- open transaction comes after all others.
CREATE FUNCTION threadline.timeline_rows(p_target regclass, p_actor jsonb, p_correlation_id text, p_request_id text, p_job_id text,
                                         p_op text, p_changed_field text, p_match jsonb, p_since timestamptz, p_until timestamptz,
                                         p_max bigint, p_before bigint, p_newest_first boolean)
RETURNS SETOF threadline.audit_history_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_since constant timestamptz := coalesce(p_since, '-infinity');
    v_until constant timestamptz := coalesce(p_until, 'infinity');
    v_sign constant integer := CASE WHEN p_newest_first THEN -1 ELSE 1 END;
    v_has_own constant boolean := EXISTS (SELECT FROM threadline.pending_transaction());
    v_op smallint;
    v_table_id integer;
    v_before record;
    v_selection constant threadline.selection := threadline.selection_of(p_actor, p_correlation_id, p_request_id, p_job_id);
    v_rare_table_id integer;
    v_own_is_next boolean;
    v_above bigint;
    v_below bigint := 9223372036854775807;
    v_time timestamptz;
    v_want bigint;
    v_left bigint := p_max;
    v_got bigint;
    v_rounds integer := 0;
    v_chosen threadline.chosen_transaction[];
    v_page bigint[];
BEGIN
    PERFORM threadline.require_limit(p_max);
    IF p_op IS NOT NULL THEN
        v_op := (array_position(ARRAY['truncate', 'delete', NULL, 'snapshot', 'insert', 'update'], p_op) - 1)::smallint;
        IF v_op IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('unknown op "%s"', p_op),
                HINT = 'Use insert, update, delete, truncate or snapshot.';
        END IF;
    END IF;
    IF jsonb_typeof(p_match) <> 'object' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('match must be a JSON object, not %s', jsonb_typeof(p_match)),
            HINT = 'match => ''{"status": "refunded"}'' finds the changes whose row has, or had, this value.';
    END IF;
    IF p_target IS NOT NULL THEN
        v_table_id := threadline.table_lookup(p_target);
        PERFORM threadline.require_readable(v_table_id, p_target);
    END IF;
    SELECT c.id, c.transaction_id, c.statement_no, c.op, x.commit_no, x.committed_at INTO v_before
    FROM (SELECT c.* FROM threadline.readable_change c WHERE c.id = p_before AND c.op <> 2 OFFSET 0) c
    CROSS JOIN LATERAL (SELECT x.commit_no, x.committed_at FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x;
    IF NOT FOUND AND p_before IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('before_change: there is no change %s that the caller may read', p_before),
            DETAIL = 'It may have been purged meanwhile, and everything before it with it.',
            HINT = 'before_change takes the id of the last row of the page before; without it the answer starts with the newest change.';
    END IF;
    v_above := threadline.commits_since(v_since);
    v_time := CASE WHEN p_newest_first THEN coalesce(v_before.committed_at, 'infinity') ELSE v_since END;
    IF v_before.commit_no IS NOT NULL THEN
        v_below := v_before.commit_no + 1;
    END IF;
    v_own_is_next := v_has_own AND p_newest_first AND v_before.commit_no IS NULL;
    v_want := least(CASE WHEN num_nulls(v_table_id, v_op, p_changed_field, p_match) = 4 THEN v_left ELSE greatest(v_left, 200) END, 20000);
    WHILE v_left IS NULL OR v_left > 0 LOOP
        IF v_own_is_next THEN
            v_chosen := threadline.own_transaction(v_selection, v_until);
        ELSE
            EXECUTE threadline.choosing_statement(v_selection, v_rare_table_id, v_above, v_below, v_time, v_until, p_newest_first, greatest(v_want, 1)) INTO v_chosen;
        END IF;
        IF v_chosen IS NOT NULL THEN
            v_page := NULL;
            -- Of many changes those of the page are found by their places: to show one costs more.
            IF num_nulls(p_changed_field, p_match) = 2 AND (SELECT sum(x.change_count) FROM unnest(v_chosen) x) / 2 > v_left THEN
                v_page := ARRAY(
                    SELECT c.id
                    FROM (SELECT x.id, x.commit_no, lower(r.ids) AS first_id, upper(r.ids) AS end_id
                          FROM unnest(v_chosen) x CROSS JOIN LATERAL unnest(x.change_ids) AS r (ids) OFFSET 0) x
                    -- By their ids: nothing else is worth an index here.
                    CROSS JOIN LATERAL (SELECT c.* FROM threadline.readable_place c WHERE c.id >= x.first_id AND c.id < x.end_id OFFSET 0) c
                    WHERE c.transaction_id = x.id AND c.op <> 2
                      AND (v_table_id IS NULL OR c.table_id = v_table_id)
                      AND (v_op IS NULL OR c.op = v_op)
                      AND c.captured_at >= v_since AND c.captured_at <= v_until
                      AND (v_before.id IS NULL OR c.transaction_id <> v_before.transaction_id
                           OR (c.statement_no, c.op, c.id) < (v_before.statement_no, v_before.op, v_before.id))
                    ORDER BY v_sign * x.commit_no, v_sign * c.statement_no, v_sign * c.op, v_sign * c.id
                    LIMIT v_left);
            END IF;
            RETURN QUERY
            WITH page AS MATERIALIZED (
                SELECT c.*, x.commit_no, x.committed_at, x.actor_ref, x.action_id, x.correlation_id, x.request_id, x.job_id
                FROM threadline.chosen_changes(v_chosen, v_table_id, v_op, p_changed_field, p_match, v_since, v_until, v_page) c
                JOIN unnest(v_chosen) x ON x.id = c.transaction_id
                WHERE c.op <> 2
                  AND (v_before.id IS NULL OR c.transaction_id <> v_before.transaction_id
                       OR (c.statement_no, c.op, c.id) < (v_before.statement_no, v_before.op, v_before.id))
                ORDER BY v_sign * x.commit_no, v_sign * c.statement_no, v_sign * c.op, v_sign * c.id
                LIMIT v_left
            ), known AS MATERIALIZED (
                SELECT t.table_id,
                       threadline.gapless_at_once(t.relation, greatest(v_since, t.enabled_at), v_until)
                           OR NOT EXISTS (SELECT FROM threadline.gaps_in_window(t.table_id, v_since, v_until)) AS complete
                FROM threadline.readable_table t
                WHERE t.table_id = ANY (ARRAY(SELECT p.table_id FROM page p))
            )
            SELECT p.id, p.transaction_id, p.table_schema, p.table_name, p.table_pk, p.old_pk, p.op_name, p.changed_fields,
                   p.old_image, p.new_image, p.captured_at, p.statement_no, p.schema_version,
                   p.committed_at, p.actor_ref, a.name,
                   coalesce(p.correlation_id, a.correlation_id), coalesce(p.request_id, a.request_id), coalesce(p.job_id, a.job_id),
                   k.complete
            FROM page p
            JOIN known k ON k.table_id = p.table_id
            LEFT JOIN LATERAL (SELECT a.* FROM threadline.readable_action a WHERE a.id = p.action_id OFFSET 0) a ON true
            ORDER BY v_sign * p.commit_no, v_sign * p.statement_no, v_sign * p.op, v_sign * p.id;
            GET DIAGNOSTICS v_got = ROW_COUNT;
            v_left := v_left - v_got;
        END IF;
        IF v_own_is_next THEN
            EXIT WHEN NOT p_newest_first;
            v_own_is_next := false;
            CONTINUE;
        ELSIF v_chosen IS NULL THEN
            EXIT WHEN p_newest_first OR NOT v_has_own;
            v_own_is_next := true;
            CONTINUE;
        END IF;
        v_time := v_chosen[cardinality(v_chosen)].committed_at;
        IF p_newest_first THEN
            v_below := v_chosen[cardinality(v_chosen)].commit_no;
        ELSE
            v_above := v_chosen[cardinality(v_chosen)].commit_no;
        END IF;
        v_want := least(4 * v_want, 20000);
        v_rounds := v_rounds + 1;
        -- The table's changes are rare: find its transactions by it.
        IF v_rounds = 3 AND num_nulls(p_actor, p_correlation_id, p_request_id, p_job_id) = 4 AND v_table_id IS NOT NULL THEN
            v_rare_table_id := v_table_id;
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION threadline.audit_timeline(target regclass = NULL, actor jsonb = NULL, correlation_id text = NULL, request_id text = NULL, job_id text = NULL,
                                          op text = NULL, changed_field text = NULL, match jsonb = NULL,
                                          since timestamptz = '-infinity', until timestamptz = 'infinity', max_rows integer = 1000, before_change bigint = NULL)
RETURNS SETOF threadline.audit_history_row
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT h.* FROM threadline.timeline_rows(audit_timeline.target, audit_timeline.actor, audit_timeline.correlation_id, audit_timeline.request_id,
                                             audit_timeline.job_id, audit_timeline.op, audit_timeline.changed_field, audit_timeline.match,
                                             audit_timeline.since, audit_timeline.until, audit_timeline.max_rows, audit_timeline.before_change, true) h;
END;
COMMENT ON FUNCTION threadline.audit_timeline(regclass, jsonb, text, text, text, text, text, jsonb, timestamptz, timestamptz, integer, bigint) IS
    'The changes of all tables the caller may read, or of one, newest first in commit order, as audit_history_row. Every filter given must hold: actor by containment, by index if it has a type and an id; correlation_id, request_id and job_id as the transaction or one of its actions said; op insert, update, delete, truncate or snapshot; changed_field a column that an update changed, match values that the row had before or after the change ({"status": "refunded"}), both in the words of then; since and until bound captured_at, both inclusive. max_rows cuts the answer (NULL: all), and the id of its last row as before_change, the other arguments as they were, gives the next page. complete is false when changes of the row''s table in the window may be missing. Errors: 22023 unknown op, match no object, unknown before_change; 42704 no history of the table; 42501 no right to read it.';

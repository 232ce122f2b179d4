-- Taking back what transactions did: rehearsed, applied; and one row back to its state at a time.

-- What is to be run, in this order. status: ready, or as in audit_revert_step why it is not. written: the values that the statement puts back.
CREATE TYPE threadline.revert_task AS (
    step        integer,
    table_id    integer,
    relation    regclass,
    table_name  text,
    key_columns name[],
    counted     boolean,
    table_pk    jsonb,
    key_from    text,
    key_to      text,
    state_to    jsonb,
    written     jsonb,
    statement   text,
    status      text,
    detail      text
);

-- The transactions must be known, ended and recorded as a whole, row by row.
CREATE FUNCTION threadline.require_revertible(p_set uuid[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_transaction record;
BEGIN
    FOR v_transaction IN
        SELECT s.id, x.id IS NOT NULL AS is_known, x.committed_at, x.change_count, coalesce(c.changes, 0) AS changes, c.truncated
        FROM unnest(p_set) AS s (id)
        LEFT JOIN LATERAL (SELECT x.id, x.committed_at, x.change_count FROM threadline.readable_transaction x WHERE x.id = s.id OFFSET 0) x ON true
        LEFT JOIN (
            SELECT c.transaction_id, count(*) FILTER (WHERE c.op <> 2) AS changes,
                   min(format('%I.%I', c.table_schema, c.table_name)) FILTER (WHERE c.op = 0 AND c.old_image IS NULL) AS truncated
            FROM threadline.revert_changes(p_set) c
            GROUP BY c.transaction_id
        ) c ON c.transaction_id = s.id
    LOOP
        IF NOT v_transaction.is_known THEN
            RAISE EXCEPTION USING
                ERRCODE = '02000',
                MESSAGE = format('transaction %s is not in the record', coalesce(v_transaction.id::text, 'NULL')),
                HINT = 'SELECT id, committed_at, actor_ref, change_count FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 20;';
        ELSIF v_transaction.committed_at IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('transaction %s is still running: it is this one', v_transaction.id),
                HINT = 'ROLLBACK; or ROLLBACK TO a savepoint takes it back.';
        ELSIF v_transaction.truncated IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'feature_not_supported',
                MESSAGE = format('transaction %s truncated table %s, which was recorded as one change', v_transaction.id, v_transaction.truncated),
                DETAIL = 'Which rows it removed is not recorded with it.',
                HINT = format('The rows until then: SELECT * FROM threadline.audit_table_as_of(%L, %L::timestamptz - interval ''1 microsecond'');',
                              v_transaction.truncated, v_transaction.committed_at);
        ELSIF v_transaction.changes <> v_transaction.change_count THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('transaction %s is not known as a whole', v_transaction.id),
                DETAIL = format('%s of its %s changes are there to read: the others were purged, or are of tables whose history you may not read.',
                                v_transaction.changes, v_transaction.change_count),
                HINT = 'SELECT * FROM threadline.audit_gaps WHERE reason = ''purged''; SELECT on the tables makes their history readable.';
        END IF;
    END LOOP;
END
$$;

-- Moves in order, with what stands in their way. Rows that stand in a circle (they swapped unique values, or refer to each other)
-- go back change by change, as they came. What depends on a row that stays stays too.
CREATE FUNCTION threadline.revert_tasks(p_moves threadline.revert_move[], p_set uuid[], p_findings threadline.revert_finding[], p_force boolean)
RETURNS SETOF threadline.revert_task
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_moves threadline.revert_move[] := p_moves;
    v_before integer[];
    v_after integer[];
    v_order record;
    v_circular integer[];
BEGIN
    FOR v_round IN 1..2 LOOP
        SELECT array_agg(e.before ORDER BY e.after, e.before), array_agg(e.after ORDER BY e.after, e.before) INTO v_before, v_after
        FROM threadline.revert_edges(v_moves) e;
        SELECT o.ordered, o.circular INTO v_order FROM threadline.revert_order(cardinality(v_moves), v_before, v_after) o;
        EXIT WHEN cardinality(v_order.circular) = 0 OR cardinality(p_set) = 0 OR v_round = 2;
        v_circular := ARRAY(SELECT DISTINCT m.entity FROM unnest(v_moves) m WHERE m.no = ANY (v_order.circular));
        v_moves := ARRAY(SELECT m FROM threadline.revert_moves(p_set, v_circular) m ORDER BY m.no);
    END LOOP;

    RETURN QUERY
    WITH RECURSIVE move AS MATERIALIZED (
        SELECT m.* FROM unnest(v_moves) m
    ), dependency AS MATERIALIZED (
        SELECT DISTINCT b.entity AS before, a.entity AS after
        FROM unnest(v_before, v_after) AS e (before, after)
        JOIN move b ON b.no = e.before
        JOIN move a ON a.no = e.after
        WHERE b.entity <> a.entity
    ), stays AS (
        SELECT f.entity FROM unnest(p_findings) f WHERE NOT (p_force AND f.kind IN ('changed', 'redacted'))
        UNION
        SELECT d.after FROM stays s JOIN dependency d ON d.before = s.entity
    ), finding AS MATERIALIZED (
        SELECT f.entity, string_agg(DISTINCT f.detail, '; ' ORDER BY f.detail) AS detail, bool_and(f.kind = 'redacted') AS only_redacted
        FROM unnest(p_findings) f
        GROUP BY f.entity
    ), statement AS MATERIALIZED (
        SELECT s.* FROM threadline.revert_statements(v_moves) s
    )
    SELECT o.step::integer, m.table_id, m.relation, m.table_name, m.key_columns, m.counted, m.table_pk, m.key_from, m.key_to, m.state_to,
           CASE WHEN m.state_from IS NULL THEN m.state_to
                ELSE (SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(m.state_to) e WHERE m.state_from -> e.key IS DISTINCT FROM e.value) END,
           s.statement,
           CASE WHEN f.only_redacted AND (y.entity IS NOT NULL OR s.statement IS NULL) THEN 'redacted'
                WHEN y.entity IS NOT NULL OR s.statement IS NULL THEN 'conflict'
                ELSE 'ready' END,
           nullif(concat_ws('; ', f.detail,
                            CASE WHEN y.entity IS NOT NULL AND f.entity IS NULL THEN 'a row that must go back before it stays as it is' END,
                            CASE WHEN cardinality(m.gone) > 0 AND m.state_to IS NOT NULL
                                 THEN format('left out, since the table has it no more: %s', array_to_string(m.gone, ', ')) END,
                            CASE WHEN NOT t.enabled AND t.relation IS NOT NULL THEN 'the table is not under capture now, so this will not be recorded' END), '')
    FROM unnest(v_order.ordered) WITH ORDINALITY AS o (no, step)
    JOIN move m ON m.no = o.no
    JOIN threadline.readable_table t ON t.table_id = m.table_id
    LEFT JOIN stays y ON y.entity = m.entity
    LEFT JOIN finding f ON f.entity = m.entity
    LEFT JOIN statement s ON s.no = m.no
    ORDER BY o.step;
END
$$;

-- The tasks that take transactions back, and in mode cascade those that depend on them. p_lock: the rows stay locked.
CREATE FUNCTION threadline.revert_plan(p_set uuid[], p_mode text, p_lock boolean, OUT tasks threadline.revert_task[], OUT transactions uuid[])
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_moves threadline.revert_move[];
    v_findings threadline.revert_finding[];
    v_dependent uuid[];
BEGIN
    transactions := p_set;
    LOOP
        PERFORM threadline.require_revertible(transactions);
        v_moves := ARRAY(SELECT m FROM threadline.revert_moves(transactions, '{}') m ORDER BY m.no);
        v_findings := ARRAY(SELECT f FROM threadline.revert_later(v_moves, transactions, p_lock) f)
                   || ARRAY(SELECT f FROM threadline.revert_bound(v_moves) f) || ARRAY(SELECT f FROM threadline.revert_unwritable(v_moves) f);
        EXIT WHEN p_mode <> 'cascade';
        v_dependent := ARRAY(SELECT DISTINCT f.transaction_id FROM unnest(v_findings) f
                             WHERE f.transaction_id IS NOT NULL AND f.transaction_id <> ALL (transactions));
        EXIT WHEN cardinality(v_dependent) = 0;
        transactions := transactions || v_dependent;
    END LOOP;
    tasks := ARRAY(SELECT t FROM threadline.revert_tasks(v_moves, transactions, v_findings, p_mode = 'nocascade_force') t ORDER BY t.step);
END
$$;

-- Lets the deferrable constraints of the tasks' tables that are checked at once wait until every row is back; returns their names. SET
-- CONSTRAINTS takes names, and fails where a constraint of the same name cannot be deferred.
CREATE FUNCTION threadline.revert_defer(p_tasks threadline.revert_task[]) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relations constant oid[] := ARRAY(SELECT DISTINCT t.relation::oid FROM unnest(p_tasks) t WHERE t.relation IS NOT NULL);
    v_constraints constant text := (
        SELECT string_agg(DISTINCT format('%I.%I', n.nspname, k.conname), ', ')
        FROM pg_constraint k
        JOIN pg_namespace n ON n.oid = k.connamespace
        WHERE k.contype IN ('f', 'u', 'p', 'x') AND k.condeferrable AND NOT k.condeferred
          AND (k.conrelid = ANY (v_relations) OR k.confrelid = ANY (v_relations))
          AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.connamespace = k.connamespace AND o.conname = k.conname AND NOT o.condeferrable));
BEGIN
    IF v_constraints IS NOT NULL THEN
        EXECUTE 'SET CONSTRAINTS ' || v_constraints || ' DEFERRED';
    END IF;
    RETURN v_constraints;
END
$$;

-- Runs a task, in the caller's search_path: triggers fire in it. Returns a note when nothing was left to do: a foreign
-- key that follows its parent, or a trigger, has done it.
CREATE FUNCTION threadline.revert_execute(p_task threadline.revert_task) RETURNS text
LANGUAGE plpgsql VOLATILE
-- Texts are read in the settings they were written in.
SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
AS $$
DECLARE
    v_rows bigint;
BEGIN
    EXECUTE p_task.statement;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows = 1 THEN
        RETURN NULL;
    END IF;
    IF v_rows = 0 AND NOT p_task.counted
       AND (p_task.state_to IS NULL) <> EXISTS (
           SELECT
           FROM threadline.revert_live(p_task.relation, p_task.key_columns, ARRAY[1],
                                       ARRAY[coalesce(p_task.state_to, threadline.key_object(p_task.key_columns, p_task.key_from))], false) l
           WHERE p_task.state_to IS NULL OR l.state OPERATOR(pg_catalog.@>) p_task.written) THEN
        RETURN 'done already, by a foreign key or a trigger';
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'triggered_data_change_violation',
        MESSAGE = pg_catalog.format('%s rows of %s were written in place of one', v_rows, p_task.table_name),
        DETAIL = p_task.statement,
        HINT = 'A trigger or rule of the table changes what the statement does.';
END
$$;

-- What is otherwise than the tasks say once they have run: rows of theirs, by step, and rows beyond them, without one.
-- p_since: the last statement of the transaction before them.
CREATE FUNCTION threadline.revert_effects(p_tasks threadline.revert_task[], p_since integer) RETURNS SETOF threadline.audit_revert_step
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_table record;
BEGIN
    FOR v_table IN
        SELECT t.relation, t.key_columns, array_agg(t.step) AS steps, array_agg(t.state_to) AS states
        FROM (
            -- The last task of a row that goes back in several.
            SELECT DISTINCT ON (t.table_id, t.key_to) t.* FROM unnest(p_tasks) t
            WHERE t.status = 'ready' AND t.state_to IS NOT NULL AND NOT t.counted
            ORDER BY t.table_id, t.key_to, t.step DESC
        ) t
        WHERE NOT EXISTS (SELECT FROM unnest(p_tasks) o WHERE o.status = 'ready' AND o.table_id = t.table_id AND o.key_from = t.key_to AND o.step > t.step)
        GROUP BY t.relation, t.key_columns
    LOOP
        RETURN QUERY
        SELECT t.step, t.table_name, t.table_pk, t.statement, 'side_effect',
               CASE WHEN l.no IS NULL THEN 'the row is not there afterwards'
                    ELSE 'a trigger makes ' || (SELECT string_agg(format('%I %s', w.key, threadline.brief_value(l.state -> w.key)), ', ' ORDER BY w.key)
                                                FROM jsonb_each(t.written) w WHERE l.state -> w.key IS DISTINCT FROM w.value) END
        FROM unnest(p_tasks) t
        LEFT JOIN threadline.revert_live(v_table.relation, v_table.key_columns, v_table.steps, v_table.states, false) l ON l.no = t.step
        WHERE t.step = ANY (v_table.steps) AND (l.no IS NULL OR NOT l.state @> t.written);
    END LOOP;
    RETURN QUERY
    SELECT NULL::integer, e.table_name, e.table_pk, NULL::text, 'side_effect', string_agg(e.what, ', then ' ORDER BY e.statement_no, e.op, e.id)
    FROM (
        SELECT format('%I.%I', c.table_schema, c.table_name) AS table_name, c.table_pk, c.statement_no, c.op, c.id,
               c.op_name || coalesce(' of ' || array_to_string(c.changed_fields, ', '), '') AS what
        FROM threadline.revert_changes(ARRAY[threadline.current_audit_transaction_id()]) c
        LEFT JOIN (
            SELECT DISTINCT t.table_id, k.key
            FROM unnest(p_tasks) t
            CROSS JOIN LATERAL (VALUES (t.key_from), (t.key_to)) AS k (key)
            WHERE t.status = 'ready' AND k.key IS NOT NULL
        ) k ON k.table_id = c.table_id AND k.key = c.key
        WHERE c.statement_no > p_since AND c.op NOT IN (2, 3) AND k.key IS NULL
    ) e
    GROUP BY e.table_name, e.table_pk
    ORDER BY e.table_name, min(e.id);
END
$$;

CREATE FUNCTION threadline.own_last_statement() RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT coalesce(max(c.statement_no), -1) FROM threadline.revert_changes(ARRAY[threadline.current_audit_transaction_id()]) c;
END;

-- The tasks as people see them; p_statuses and p_notes by step, for those that ran.
CREATE FUNCTION threadline.revert_report(p_tasks threadline.revert_task[], p_statuses text[], p_notes text[], p_effects threadline.audit_revert_step[])
RETURNS SETOF threadline.audit_revert_step
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT r.step, r.table_name, r.table_pk, r.statement, r.status, r.detail
    FROM (
        SELECT t.step, t.table_name, t.table_pk, t.statement, coalesce(revert_report.p_statuses[t.step], t.status) AS status,
               nullif(concat_ws('; ', t.detail, revert_report.p_notes[t.step], e.detail), '') AS detail, 0::bigint AS n
        FROM unnest(revert_report.p_tasks) AS t
        LEFT JOIN unnest(revert_report.p_effects) AS e ON e.step = t.step
        UNION ALL
        SELECT e.step, e.table_name, e.table_pk, e.statement, e.status, e.detail, e.n
        FROM unnest(revert_report.p_effects) WITH ORDINALITY AS e (step, table_name, table_pk, statement, status, detail, n)
        WHERE e.step IS NULL
    ) r
    ORDER BY r.step NULLS LAST, r.n;
END;

-- Runs the tasks and takes them back again: each for itself, so that every one that fails shows.
CREATE FUNCTION threadline.revert_rehearse(p_tasks threadline.revert_task[]) RETURNS SETOF threadline.audit_revert_step
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_statuses text[] := '{}';
    v_notes text[] := '{}';
    v_effects threadline.audit_revert_step[] := '{}';
    v_effect threadline.audit_revert_step;
    v_since integer;
    v_task threadline.revert_task;
BEGIN
    IF pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('transaction_read_only')::boolean THEN
        FOREACH v_task IN ARRAY p_tasks LOOP
            v_statuses[v_task.step] := CASE v_task.status WHEN 'ready' THEN 'not_rehearsed' ELSE v_task.status END;
        END LOOP;
        RETURN QUERY SELECT r.* FROM threadline.revert_report(p_tasks, v_statuses, v_notes, v_effects) r;
        RETURN;
    END IF;
    v_since := threadline.own_last_statement();
    BEGIN
        PERFORM threadline.revert_defer(p_tasks);
        FOREACH v_task IN ARRAY p_tasks LOOP
            CONTINUE WHEN v_task.status <> 'ready';
            BEGIN
                v_notes[v_task.step] := threadline.revert_execute(v_task);
                v_statuses[v_task.step] := 'ok';
            EXCEPTION WHEN OTHERS THEN
                v_notes[v_task.step] := pg_catalog.format('%s (SQLSTATE %s)', SQLERRM, SQLSTATE);
                v_statuses[v_task.step] := 'fails';
            END;
        END LOOP;
        BEGIN
            SET CONSTRAINTS ALL IMMEDIATE;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS v_effect.table_name = TABLE_NAME, v_effect.detail = PG_EXCEPTION_DETAIL;
            v_effect.table_name := nullif(v_effect.table_name, '');
            v_effect.statement := 'SET CONSTRAINTS ALL IMMEDIATE';
            v_effect.status := 'fails';
            v_effect.detail := pg_catalog.concat_ws(' ', pg_catalog.format('%s (SQLSTATE %s)', SQLERRM, SQLSTATE), nullif(v_effect.detail, ''));
            v_effects := ARRAY[v_effect];
        END;
        v_effects := v_effects || ARRAY(
            SELECT e FROM threadline.revert_effects(
                ARRAY(SELECT t FROM pg_catalog.unnest(p_tasks) t WHERE v_statuses[t.step] = 'ok' ORDER BY t.step), v_since) e);
        RAISE EXCEPTION USING ERRCODE = 'TLREV', MESSAGE = 'the rehearsal is over';
    EXCEPTION WHEN SQLSTATE 'TLREV' THEN
        NULL;
    END;
    RETURN QUERY SELECT r.* FROM threadline.revert_report(p_tasks, v_statuses, v_notes, v_effects) r;
END
$$;

CREATE FUNCTION threadline.revert_apply(p_tasks threadline.revert_task[]) RETURNS SETOF threadline.audit_revert_step
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_constraints text;
    v_since constant integer := threadline.own_last_statement();
    v_statuses text[] := '{}';
    v_notes text[] := '{}';
    v_task threadline.revert_task;
BEGIN
    v_constraints := threadline.revert_defer(p_tasks);
    FOREACH v_task IN ARRAY p_tasks LOOP
        CONTINUE WHEN v_task.status <> 'ready';
        v_notes[v_task.step] := threadline.revert_execute(v_task);
        v_statuses[v_task.step] := 'applied';
    END LOOP;
    IF v_constraints IS NOT NULL THEN
        EXECUTE 'SET CONSTRAINTS ' || v_constraints || ' IMMEDIATE';
    END IF;
    RETURN QUERY SELECT r.* FROM threadline.revert_report(p_tasks, v_statuses, v_notes, ARRAY(SELECT e FROM threadline.revert_effects(p_tasks, v_since) e)) r;
END
$$;

-- Nothing is applied while a task stands that cannot be.
CREATE FUNCTION threadline.require_no_conflict(p_tasks threadline.revert_task[], p_what text, p_hint text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_conflicts text[] := ARRAY(SELECT format('%s %s: %s', t.table_name, t.table_pk, t.detail) FROM unnest(p_tasks) t
                                WHERE t.status IN ('conflict', 'redacted') ORDER BY t.step);
BEGIN
    IF cardinality(v_conflicts) > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%s: %s', p_what, CASE cardinality(v_conflicts) WHEN 1 THEN 'one row stands in the way' ELSE format('%s rows stand in the way', cardinality(v_conflicts)) END),
            DETAIL = array_to_string(v_conflicts[1:5], E'\n') || CASE WHEN cardinality(v_conflicts) > 5 THEN E'\n…' ELSE '' END,
            HINT = p_hint;
    END IF;
END
$$;

CREATE FUNCTION threadline.revert_set(p_set uuid[], p_mode text, p_dry_run boolean, p_confirm boolean, p_call text) RETURNS SETOF threadline.audit_revert_step
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_plan record;
BEGIN
    IF p_mode IS NULL OR p_mode NOT IN ('nocascade', 'nocascade_force', 'nonconflict_only', 'cascade') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('unknown mode %s', coalesce('"' || p_mode || '"', 'NULL')),
            HINT = 'Modes: nocascade (refuses when later transactions depend on it), nocascade_force (all the same), nonconflict_only (the rows that nothing depends on), cascade (later transactions that depend on it too).';
    END IF;
    IF NOT p_dry_run AND p_confirm IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'to apply it takes confirm => true',
            HINT = pg_catalog.format('SELECT * FROM threadline.%s, mode => %L, dry_run => false, confirm => true);', p_call, p_mode);
    END IF;
    SELECT p.tasks, p.transactions INTO v_plan FROM threadline.revert_plan(p_set, p_mode, NOT p_dry_run) p;
    IF p_dry_run THEN
        RETURN QUERY SELECT r.* FROM threadline.revert_rehearse(v_plan.tasks) r;
        RETURN;
    END IF;
    IF p_mode IN ('nocascade', 'cascade') THEN
        PERFORM threadline.require_no_conflict(v_plan.tasks,
            CASE pg_catalog.cardinality(p_set) WHEN 1 THEN 'transaction ' || p_set[1] ELSE pg_catalog.cardinality(p_set) || ' transactions' END || ' cannot be taken back',
            pg_catalog.format('SELECT * FROM threadline.%s, mode => ''cascade''); shows what takes back later transactions too, nonconflict_only what nothing depends on, nocascade_force all the same.', p_call));
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.unnest(v_plan.tasks) t WHERE t.status = 'ready') THEN
        PERFORM threadline.record_action('threadline.revert', verb => 'revert', category => 'threadline',
            reason => pg_catalog.format('%s (%s)', pg_catalog.array_to_string(v_plan.transactions, ', '), p_mode));
    END IF;
    RETURN QUERY SELECT r.* FROM threadline.revert_apply(v_plan.tasks) r;
END
$$;

CREATE FUNCTION threadline.audit_revert(transaction_id uuid, mode text = 'nocascade', dry_run boolean = true, confirm boolean = false)
RETURNS SETOF threadline.audit_revert_step
LANGUAGE sql VOLATILE
AS $$
    SELECT s.* FROM threadline.revert_set(ARRAY[audit_revert.transaction_id], audit_revert.mode, coalesce(audit_revert.dry_run, true), audit_revert.confirm,
                                          pg_catalog.format('audit_revert(%L', audit_revert.transaction_id)) s
$$;

CREATE FUNCTION threadline.audit_revert_set(correlation_id text = NULL, request_id text = NULL, job_id text = NULL, actor jsonb = NULL,
    since timestamptz = NULL, until timestamptz = NULL, mode text = 'nocascade', dry_run boolean = true, confirm boolean = false)
RETURNS SETOF threadline.audit_revert_step
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_set uuid[];
    v_call text;
BEGIN
    IF pg_catalog.num_nonnulls(audit_revert_set.correlation_id, audit_revert_set.request_id, audit_revert_set.job_id, audit_revert_set.actor, audit_revert_set.since) = 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'nothing says which transactions to take back',
            HINT = 'Give at least one of correlation_id, request_id, job_id, actor and since: SELECT * FROM threadline.audit_revert_set(job_id => ''…'');';
    END IF;
    v_set := ARRAY(
        SELECT x.id
        FROM threadline.selected_transactions(threadline.selection_of(audit_revert_set.actor, audit_revert_set.correlation_id,
                                                                      audit_revert_set.request_id, audit_revert_set.job_id), '-infinity') x
        WHERE x.committed_at >= coalesce(audit_revert_set.since, '-infinity') AND x.committed_at <= coalesce(audit_revert_set.until, 'infinity')
          AND x.change_count > 0
        ORDER BY x.commit_no);
    v_call := 'audit_revert_set(' || pg_catalog.concat_ws(', ',
        'correlation_id => ' || pg_catalog.quote_literal(audit_revert_set.correlation_id), 'request_id => ' || pg_catalog.quote_literal(audit_revert_set.request_id),
        'job_id => ' || pg_catalog.quote_literal(audit_revert_set.job_id), 'actor => ' || pg_catalog.quote_literal(audit_revert_set.actor),
        'since => ' || pg_catalog.quote_literal(audit_revert_set.since), 'until => ' || pg_catalog.quote_literal(audit_revert_set.until));
    IF pg_catalog.cardinality(v_set) = 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = '02000',
            MESSAGE = 'no recorded transaction is one of these',
            HINT = 'SELECT id, committed_at, actor_ref, correlation_id, request_id, job_id FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 20;';
    END IF;
    RETURN QUERY SELECT s.* FROM threadline.revert_set(v_set, audit_revert_set.mode, coalesce(audit_revert_set.dry_run, true), audit_revert_set.confirm, v_call) s;
END
$$;

COMMENT ON FUNCTION threadline.audit_revert(uuid, text, boolean, boolean) IS
'Takes back what a transaction did to captured tables, one row per audit_revert_step. The dry run, which is the default, shows the exact statements and rehearses them in a subtransaction that is rolled back: constraints and triggers that would fail, and what they would change beside, show in status and detail (what triggers do outside the database, and sequences, are not rolled back). dry_run => false with confirm => true applies it in the caller''s transaction, all or nothing, with the caller''s own rights (SELECT, UPDATE and what the statements need); the rows are locked and compared with the record first. It is recorded like any write, under an action threadline.revert, and can be taken back itself.
mode: nocascade refuses when a row was changed since, is referred to by a foreign key, or when what it had of a unique key is taken; nocascade_force puts back the columns that the transaction changed whoever changed them since, deletes rows that it inserted, and leaves rows that are gone or that foreign and unique keys hold; nonconflict_only leaves every row in conflict; cascade takes back the later transactions that depend on it as well, and those that depend on them. Redacted columns cannot be put back: a conflict, but in nocascade_force.
Errors: 02000 unknown transaction, 22023 unknown mode or no confirm, 55000 conflicts (in nocascade and cascade), or a transaction that is not known as a whole or still running, 0A000 a TRUNCATE recorded as one change, and whatever the statements raise.';
COMMENT ON FUNCTION threadline.audit_revert_set(text, text, text, jsonb, timestamptz, timestamptz, text, boolean, boolean) IS
'As audit_revert, for all transactions that match everything given, as one: what one of them did to another''s rows is no conflict. correlation_id, request_id, job_id: as the transaction or one of its actions has them; actor: by containment; since and until bound committed_at, both inclusive. At least one of correlation_id, request_id, job_id, actor and since. Errors: as audit_revert; 22023 nothing given, 02000 nothing found.';

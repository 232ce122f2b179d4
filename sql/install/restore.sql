-- One row back to its state at a time.

-- Where the row that bore a key when change p_change was the last of it is now: under which key, or NULL when it is gone.
-- p_key_columns: the table's key in names of now.
CREATE FUNCTION threadline.restored_key(p_change threadline.readable_change, p_relation regclass, p_key_columns name[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_key text := p_change.key;
    v_row_key bigint := p_change.row_key;
    v_at record := p_change;
BEGIN
    LOOP
        SELECT c.* INTO v_at
        FROM threadline.readable_change_oldest c
        WHERE c.table_id = p_change.table_id AND c.row_key = v_row_key AND c.key = v_key AND c.op <= 2
          AND CASE WHEN c.transaction_id = v_at.transaction_id THEN c.statement_no > v_at.statement_no ELSE c.id > v_at.id END
        LIMIT 1;
        IF NOT FOUND THEN
            RETURN v_key;
        ELSIF v_at.op < 2 THEN
            RETURN NULL;
        END IF;
        v_key := v_at.old_key;
        v_row_key := (SELECT k.row_key FROM threadline.key_lookup(p_relation, threadline.key_object(p_key_columns, v_key)::text) k);
    END LOOP;
END
$$;

-- The key from which the row that bears a key now, or bore it before change p_before, came there by an update after the horizon; else NULL.
CREATE FUNCTION threadline.came_from(p_table_id integer, p_row_key bigint, p_key text, p_horizon bigint, p_before bigint, OUT old_key text, OUT change_id bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    SELECT CASE WHEN c.op = 5 AND (x.commit_no IS NULL OR x.commit_no > p_horizon) THEN c.old_key END, c.id INTO came_from.old_key, came_from.change_id
    FROM (SELECT c.id, c.op, c.old_key, c.transaction_id
          FROM threadline.readable_change_newest c
          WHERE c.table_id = p_table_id AND c.row_key = p_row_key AND c.key = p_key AND c.id < p_before
            AND (c.op = 4 OR c.op = 5 AND c.old_key IS NOT NULL)
          LIMIT 1) c
    JOIN threadline.readable_transaction x ON x.id = c.transaction_id;
END
$$;

CREATE FUNCTION threadline.restore_tasks(p_target regclass, p_given text, p_at timestamptz, p_lock boolean) RETURNS SETOF threadline.revert_task
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_horizon constant bigint := threadline.commit_horizon(p_at);
    v_key record;
    v_table record;
    v_state threadline.audit_row_state;
    v_change threadline.readable_change;
    v_then threadline.revert_change;
    v_arrival record;
    v_move threadline.revert_move;
    v_moves threadline.revert_move[] := '{}';
    v_findings threadline.revert_finding[];
    v_task threadline.revert_task;
    v_copies bigint := 0;
    v_kept text[] := '{}';
BEGIN
    SELECT k.table_id, k.row_key, k.key INTO v_key FROM threadline.key_given(p_target, p_given) k;
    PERFORM threadline.require_readable(v_key.table_id, p_target);
    SELECT t.relation, cardinality(t.key_columns) = 0 AS counted,
           coalesce((SELECT k.key_columns FROM threadline.revert_keys(t.table_id, t.relation) k ORDER BY k.version DESC LIMIT 1), t.key_columns) AS key_columns, threadline.qualified_name(t.relation) AS name INTO v_table
    FROM threadline.readable_table t WHERE t.table_id = v_key.table_id;
    v_state := threadline.row_state(p_target, p_given, p_at);
    v_move.key_from := v_key.key;

    -- The row that bears the key now may have had another then.
    SELECT v_key.key AS old_key, 9223372036854775807::bigint AS change_id INTO v_arrival;
    WHILE v_state.status IN ('deleted', 'never_seen') AND NOT v_table.counted LOOP
        SELECT a.old_key, a.change_id INTO v_arrival
        FROM threadline.key_lookup(v_table.relation, threadline.key_object(v_table.key_columns, v_arrival.old_key)::text) k
        CROSS JOIN LATERAL threadline.came_from(v_key.table_id, k.row_key, k.key, v_horizon, v_arrival.change_id) a;
        EXIT WHEN v_arrival.old_key IS NULL;
        v_state := threadline.row_state(p_target, threadline.key_object(v_table.key_columns, v_arrival.old_key)::text, p_at);
    END LOOP;

    IF v_state.status IN ('before_horizon', 'purged') THEN
        PERFORM threadline.refuse_unknown_past(v_table.name, p_at, v_state.status = 'purged');
    ELSIF NOT v_state.complete THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('what the row of table %s was at %s is not known for certain', v_table.name, p_at),
            DETAIL = 'Its history has a gap there, or transactions of then are still in flight.',
            HINT = format('SELECT * FROM threadline.audit_gaps; SELECT * FROM threadline.audit_as_of(%L, %L, %L); shows what is recorded.', v_table.name, p_given, p_at);
    END IF;

    IF v_state.status = 'present' THEN
        SELECT c.* INTO v_change FROM threadline.readable_change c WHERE c.id = v_state.change_id;
        SELECT 1, true, c.table_id, c.schema_version, c.new_image, c.new_exact, ARRAY(
                   SELECT s.name_now FROM threadline.revert_shape(c.table_id, v_table.relation) s WHERE s.version = c.schema_version AND s.is_hidden ORDER BY s.name_now)
        INTO v_then.n, v_then.is_last, v_then.table_id, v_then.version, v_then.new_image, v_then.new_exact, v_then.hidden
        FROM threadline.readable_change c WHERE c.id = v_state.change_id;
        SELECT s.state INTO v_move.state_to FROM threadline.revert_states(v_key.table_id, v_table.relation, ARRAY[v_then], false) s;
        v_move.key_to := v_change.key;
        v_move.gone := ARRAY(SELECT s.name_then FROM threadline.revert_shape(v_key.table_id, v_table.relation) s WHERE s.version = v_then.version AND s.name_now IS NULL ORDER BY s.name_then);
    END IF;
    v_move.entity := 1;
    v_move.table_id := v_key.table_id;
    v_move.relation := v_table.relation;
    v_move.table_name := v_table.name;
    v_move.key_columns := v_table.key_columns;
    v_move.counted := v_table.counted;
    v_move.other_key := false;
    v_move.redacted := '{}';
    v_move.gone := coalesce(v_move.gone, '{}');

    IF v_table.counted THEN
        -- As many copies as there were.
        v_copies := (threadline.row_count(v_key.table_id, v_key.row_key, v_key.key, (threadline.state_base(v_key.table_id, v_horizon)).first_change_id, v_horizon)).copies
                    - coalesce((SELECT c.copies FROM threadline.revert_copies(v_table.relation, ARRAY[v_key.key]) c), 0);
        IF v_copies > 0 THEN
            v_move.key_from := NULL;
        ELSIF v_copies < 0 THEN
            v_move.key_to := NULL;
            v_move.state_to := NULL;
            v_move.state_from := '{}';
        END IF;
    ELSE
        IF v_state.status = 'present' THEN
            v_move.key_from := coalesce(threadline.restored_key(v_change, v_table.relation, v_table.key_columns), v_move.key_to);
        END IF;
        SELECT l.state INTO v_move.state_from
        FROM threadline.revert_live(v_table.relation, v_table.key_columns, ARRAY[1], ARRAY[threadline.key_object(v_table.key_columns, v_move.key_from)], p_lock) l;
        IF v_move.state_from IS NULL THEN
            v_move.key_from := NULL;
        END IF;
        v_copies := CASE WHEN (v_move.state_from IS NULL) <> (v_move.state_to IS NULL) OR v_move.state_from || v_move.state_to <> v_move.state_from THEN 1 ELSE 0 END;
    END IF;
    v_move.table_pk := threadline.key_object(v_table.key_columns, coalesce(v_move.key_from, v_move.key_to, v_key.key));
    IF v_move.state_to IS NOT NULL AND v_move.state_from IS NULL THEN
        v_move.redacted := v_then.hidden;
    ELSIF v_move.state_to IS NOT NULL THEN
        v_kept := v_then.hidden;
    END IF;
    FOR v_copy IN 1..abs(v_copies) LOOP
        v_move.no := v_copy;
        v_move.entity := v_copy;
        v_moves := v_moves || v_move;
    END LOOP;

    v_findings := ARRAY(SELECT f FROM threadline.revert_bound(v_moves) f) || ARRAY(SELECT f FROM threadline.revert_unwritable(v_moves) f);
    FOR v_task IN SELECT t.* FROM threadline.revert_tasks(v_moves, '{}', v_findings, false) t ORDER BY t.step LOOP
        v_task.detail := nullif(concat_ws('; ', v_task.detail, CASE WHEN cardinality(v_kept) > 0 THEN 'redacted, so left as it is: ' || array_to_string(v_kept, ', ') END), '');
        RETURN NEXT v_task;
    END LOOP;
    IF v_copies = 0 THEN
        v_task := NULL;
        v_task.step := 1;
        v_task.table_name := v_table.name;
        v_task.table_pk := v_move.table_pk;
        v_task.status := 'nothing';
        v_task.detail := CASE WHEN v_state.status = 'present' THEN 'the row is as it was' ELSE 'there was no such row, and there is none' END;
        RETURN NEXT v_task;
    END IF;
END
$$;

CREATE FUNCTION threadline.restore_row(p_target regclass, p_given text, p_at timestamptz, p_dry_run boolean) RETURNS SETOF threadline.audit_revert_step
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    v_tasks constant threadline.revert_task[] := ARRAY(
        SELECT t FROM threadline.restore_tasks(p_target, p_given, p_at, NOT coalesce(p_dry_run, true)) t ORDER BY t.step);
BEGIN
    IF coalesce(p_dry_run, true) THEN
        RETURN QUERY SELECT r.* FROM threadline.revert_rehearse(v_tasks) r;
        RETURN;
    END IF;
    PERFORM threadline.require_no_conflict(v_tasks, pg_catalog.format('the row of table %s cannot be restored', threadline.qualified_name(p_target)),
        pg_catalog.format('SELECT * FROM threadline.audit_restore(%L, %L, %L); shows the statement.', threadline.qualified_name(p_target), p_given, p_at));
    IF EXISTS (SELECT FROM pg_catalog.unnest(v_tasks) t WHERE t.status = 'ready') THEN
        PERFORM threadline.record_action('threadline.restore', verb => 'restore', category => 'threadline',
            reason => pg_catalog.format('%s %s as of %s', v_tasks[1].table_name, v_tasks[1].table_pk, p_at));
    END IF;
    RETURN QUERY SELECT r.* FROM threadline.revert_apply(v_tasks) r;
END
$$;

CREATE FUNCTION threadline.audit_restore(target regclass, key text, at timestamptz, dry_run boolean = true) RETURNS SETOF threadline.audit_revert_step
LANGUAGE sql VOLATILE
AS $$ SELECT s.* FROM threadline.restore_row(audit_restore.target, audit_restore.key, audit_restore.at, audit_restore.dry_run) s $$;

CREATE FUNCTION threadline.audit_restore(target regclass, key bigint, at timestamptz, dry_run boolean = true) RETURNS SETOF threadline.audit_revert_step
LANGUAGE sql VOLATILE
AS $$ SELECT s.* FROM threadline.restore_row(audit_restore.target, audit_restore.key::pg_catalog.text, audit_restore.at, audit_restore.dry_run) s $$;

CREATE FUNCTION threadline.audit_restore(target regclass, key uuid, at timestamptz, dry_run boolean = true) RETURNS SETOF threadline.audit_revert_step
LANGUAGE sql VOLATILE
AS $$ SELECT s.* FROM threadline.restore_row(audit_restore.target, audit_restore.key::pg_catalog.text, audit_restore.at, audit_restore.dry_run) s $$;

CREATE FUNCTION threadline.audit_restore(target regclass, key jsonb, at timestamptz, dry_run boolean = true) RETURNS SETOF threadline.audit_revert_step
LANGUAGE sql VOLATILE
AS $$ SELECT s.* FROM threadline.restore_row(audit_restore.target, threadline.key_text(audit_restore.key), audit_restore.at, audit_restore.dry_run) s $$;

SELECT threadline.describe('audit_restore', 4,
    'Puts one row back to what it was as of everything committed at or before a time: inserts it, updates the columns that differ, deletes it if there was none, or nothing, as audit_revert_step. The dry run, which is the default, shows and rehearses the statement as audit_revert does; dry_run => false runs it in the caller''s transaction with the caller''s rights, under an action threadline.restore. key: as audit_as_of; the row is followed through changes of its key, both ways; of a table without a key (full_row) there are as many copies afterwards as there were. Errors: 22023 wrong key, or a time that is NULL or in the future, 42704 no history, 42501 no right, 55000 the record does not reach back, was purged or has a gap, or a row, a foreign or unique key or a redacted column stands in the way.');

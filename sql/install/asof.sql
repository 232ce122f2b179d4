-- What rows and tables were at a time. "At T" is: as of everything committed at or before T.

CREATE TYPE threadline.audit_row_state AS (
    status         text,
    row_data       jsonb,
    change_id      bigint,
    transaction_id uuid,
    committed_at   timestamptz,
    complete       boolean,
    moved_to       jsonb
);
COMMENT ON TYPE threadline.audit_row_state IS 'A row as it was at a time.';
COMMENT ON COLUMN threadline.audit_row_state.status IS 'present, deleted (or moved to another key), never_seen, before_horizon (the record starts later), purged.';
COMMENT ON COLUMN threadline.audit_row_state.row_data IS 'The row in its shape of then, redacted as recorded; NULL unless present.';
COMMENT ON COLUMN threadline.audit_row_state.change_id IS 'The change that says so, with its transaction and commit time; NULL when no change does.';
COMMENT ON COLUMN threadline.audit_row_state.complete IS 'False when a gap lies between that change and the time asked for, when a transaction in flight may still commit into it, and for before_horizon and purged.';
COMMENT ON COLUMN threadline.audit_row_state.moved_to IS 'The key the row went on under, when it was moved away by an update of its key.';

CREATE TYPE threadline.audit_table_state_row AS (
    table_pk jsonb,
    row_data jsonb
);
COMMENT ON TYPE threadline.audit_table_state_row IS 'One row of a table as it was: key as text values, row in its shape of then.';

-- Where a table's state at a horizon starts. first_change_id is NULL when no baseline counts yet.
CREATE TYPE threadline.state_base AS (
    first_change_id bigint,
    since           timestamptz,
    purged          boolean
);

-- The transactions stamped next to a time. commit_no is drawn a moment before committed_at is stamped, and clocks step, so neighbours
-- may carry them in opposite order: who looks for one by the other looks at a few hundred.
CREATE FUNCTION threadline.stamped_until(at timestamptz) RETURNS SETOF threadline.readable_transaction
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT x.*
    FROM threadline.readable_transaction x
    WHERE x.committed_at <= stamped_until.at
    ORDER BY x.committed_at DESC, x.commit_no DESC
    LIMIT 256;
END;

CREATE FUNCTION threadline.stamped_after(at timestamptz) RETURNS SETOF threadline.readable_transaction
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT x.*
    FROM threadline.readable_transaction x
    WHERE x.committed_at > stamped_after.at
    ORDER BY x.committed_at, x.commit_no
    LIMIT 256;
END;

-- The transactions with a commit_no above p_low and up to p_high, to which p_since and p_until lead.
CREATE FUNCTION threadline.transactions_between(p_low bigint, p_since timestamptz, p_high bigint, p_until timestamptz)
RETURNS SETOF threadline.readable_transaction
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT x.*
    FROM threadline.readable_transaction x
    WHERE x.committed_at >= coalesce((SELECT min(n.committed_at) FROM threadline.stamped_until(transactions_between.p_since) n), '-infinity')
      AND x.committed_at <= coalesce((SELECT max(n.committed_at) FROM threadline.stamped_after(transactions_between.p_until) n), 'infinity')
      AND x.commit_no > transactions_between.p_low AND x.commit_no <= transactions_between.p_high;
END;

-- The greatest commit_no that counts at T; 0 when nothing was committed by then.
CREATE FUNCTION threadline.commit_horizon(at timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF commit_horizon.at IS NULL OR (isfinite(commit_horizon.at) AND commit_horizon.at > clock_timestamp()) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = CASE WHEN commit_horizon.at IS NULL THEN 'the time to look back to is NULL'
                           ELSE format('the time to look back to, %s, is in the future', commit_horizon.at) END,
            HINT = 'For the latest committed state give ''infinity''.';
    END IF;
    IF commit_horizon.at = 'infinity' THEN
        RETURN 9223372036854775807;
    END IF;
    RETURN threadline.horizon_at_once(commit_horizon.at);
END
$$;

-- Whether a transaction stamped at or before T is committed now and yet invisible to a snapshot: it took that long to
-- commit. VOLATILE, so that in READ COMMITTED it looks with a snapshot of its own.
CREATE FUNCTION threadline.overtaken(at timestamptz, p_snapshot pg_snapshot) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        SELECT
        FROM threadline.stamped_until(overtaken.at) w
        WHERE w.origin = threadline.origin() AND NOT pg_visible_in_snapshot(w.xid, p_snapshot));
END
$$;

-- When a transaction of this cluster that was prepared was committed; NULL when the server does not know.
CREATE FUNCTION threadline.two_phase_commit_time(p_origin bigint, p_xid xid8) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_origin <> threadline.origin() OR NOT current_setting('track_commit_timestamp')::boolean THEN
        RETURN NULL;
    END IF;
    RETURN pg_xact_commit_timestamp(p_xid::xid);
END
$$;

-- Whether as-of T can no longer change, and showed at T what it shows. Nobody saw a transaction committed in two phases before
-- its second one. Proof by a witness: a transaction whose xid precedes every one that may be
-- in flight and that started after T; whatever is in flight got its xid later still, so it is stamped later than T.
-- Without a witness: nothing was in flight when our snapshot was taken, and no xid has been drawn since. A snapshot
-- does not list transactions younger than the last completed one, hence the look at the next xid.
-- Without either, in READ COMMITTED: no transaction of this database that was writing at T is writing or prepared
-- still, and none ended between our snapshot and now. On a standby only a witness will do, since commits may be
-- waiting to be replayed. 'infinity' means the snapshot itself.
CREATE FUNCTION threadline.settled(at timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_snapshot constant pg_snapshot := pg_current_snapshot();
    v_own constant xid8 := pg_current_xact_id_if_assigned();
    v_listed xid8;
    v_next constant xid8 := pg_snapshot_xmax(v_snapshot);
BEGIN
    IF settled.at = 'infinity' THEN
        RETURN true;
    END IF;
    IF EXISTS (
        SELECT
        FROM threadline.readable_prepared p
        WHERE tstzrange(p.stamped_at, p.known_at) @> settled.at
          AND (p.known_at IS NOT NULL OR coalesce(threadline.two_phase_commit_time(p.origin, p.xid) > settled.at, true))
          -- Who committed by T and had seen it knows that it was committed.
          AND NOT EXISTS (SELECT FROM threadline.stamped_until(settled.at) w
                          WHERE w.origin = p.origin AND w.xid <> p.xid AND pg_visible_in_snapshot(p.xid, w.snapshot))) THEN
        RETURN false;
    END IF;
    IF threadline.has_witness(settled.at) THEN
        RETURN true;
    END IF;
    IF pg_is_in_recovery() THEN
        RETURN false;
    END IF;
    SELECT x.xid INTO v_listed
    FROM pg_snapshot_xip(v_snapshot) AS x (xid)
    WHERE x.xid IS DISTINCT FROM v_own
    ORDER BY x.xid
    LIMIT 1;
    -- Only our own xid, if any, may have been drawn since.
    IF v_listed IS NULL
       AND (threadline.next_xid() = v_next
            OR coalesce(v_own = v_next AND threadline.next_xid()::text::bigint = v_next::text::bigint + 1, false)) THEN
        RETURN true;
    END IF;
    -- A prepared transaction is stamped a moment before the time that pg_prepared_xacts shows.
    RETURN current_setting('transaction_isolation') = 'read committed'
       AND coalesce(threadline.oldest_other_writer() > settled.at, true)
       AND NOT EXISTS (SELECT FROM pg_prepared_xacts p
                       WHERE p.database = current_database() AND p.prepared <= settled.at + interval '10 seconds')
       AND NOT threadline.overtaken(settled.at, v_snapshot);
END
$$;

-- The newest baseline committed by a horizon, and seen by the viewer; with a NULL horizon the newest the caller sees.
CREATE FUNCTION threadline.state_base(p_table_id integer, p_horizon bigint, p_viewer threadline.viewer DEFAULT NULL) RETURNS threadline.state_base
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_base threadline.state_base;
    v_purged timestamptz;
BEGIN
    SELECT b.first_change_id, coalesce(b.committed_at, b.taken_at) INTO v_base.first_change_id, v_base.since
    FROM threadline.readable_baseline b
    WHERE b.table_id = p_table_id AND (p_horizon IS NULL OR b.commit_no <= p_horizon)
      AND (p_viewer IS NULL
           OR NOT EXISTS (SELECT FROM threadline.readable_transaction x
                          WHERE x.id = b.transaction_id AND NOT threadline.is_seen(p_viewer, x.id, x.origin, x.xid)))
    ORDER BY b.first_change_id DESC
    LIMIT 1;
    SELECT max(g.until_at) INTO v_purged
    FROM threadline.readable_gap g
    WHERE g.table_id = p_table_id AND g.reason = 'purged';
    v_base.purged := v_purged > coalesce(v_base.since, '-infinity');
    v_base.purged := coalesce(v_base.purged, false);
    RETURN v_base;
END
$$;

-- A row of a table without a key: present while there is a copy of it.
CREATE FUNCTION threadline.counted_row_state(p_table_id integer, p_row_key bigint, p_key text, p_horizon bigint, p_at timestamptz)
RETURNS threadline.audit_row_state
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_base constant threadline.state_base := threadline.state_base(p_table_id, p_horizon);
    v_relation constant regclass := (SELECT t.relation FROM threadline.readable_table t WHERE t.table_id = p_table_id);
    v_count record;
    v_change threadline.readable_change;
    v_state threadline.audit_row_state;
BEGIN
    v_count := threadline.row_count(p_table_id, p_row_key, p_key, coalesce(v_base.first_change_id, 0), p_horizon);
    IF v_count.copies > 0 THEN
        SELECT c.* INTO v_change FROM threadline.readable_change c WHERE c.id = v_count.change_id;
        v_state.status := 'present';
        v_state.row_data := v_change.new_image;
    ELSE
        v_change := threadline.latest_change(p_table_id, p_row_key, p_key, v_base.first_change_id, p_horizon);
        v_state.status := CASE WHEN v_change.id IS NOT NULL THEN 'deleted'
                               WHEN v_base.purged THEN 'purged'
                               WHEN v_base.first_change_id IS NULL THEN 'before_horizon'
                               WHEN (threadline.latest_change(p_table_id, p_row_key, p_key, NULL, v_base.first_change_id)).id IS NULL THEN 'never_seen'
                               ELSE 'deleted' END;
        IF v_change.op = 2 THEN
            v_state.moved_to := threadline.key_object(v_change.key_columns, v_change.old_key);
        END IF;
    END IF;
    v_state.change_id := v_change.id;
    v_state.transaction_id := v_change.transaction_id;
    SELECT x.committed_at INTO v_state.committed_at
    FROM threadline.readable_transaction x WHERE x.id = v_change.transaction_id;
    v_state.complete := v_base.first_change_id IS NOT NULL
        AND v_count.lowest >= 0
        AND (v_state.status = 'present' OR NOT threadline.shape_differs(p_table_id, v_relation, p_horizon))
        AND NOT EXISTS (SELECT FROM threadline.gaps_between(p_table_id, v_base.since, p_at))
        AND threadline.settled(p_at);
    RETURN v_state;
END
$$;

CREATE FUNCTION threadline.row_state_at_once(p_target regclass, p_key text, p_at timestamptz) RETURNS threadline.audit_row_state
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'row_state_at_once';
COMMENT ON FUNCTION threadline.row_state_at_once(regclass, text, timestamptz) IS 'Internal: what row_state_by_query answers, where nothing unusual is in its way; else NULL.';

CREATE FUNCTION threadline.row_state_by_query(p_target regclass, p_key text, p_at timestamptz) RETURNS threadline.audit_row_state
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
-- To plan all that it asks anew takes longer than the answer.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_horizon constant bigint := threadline.commit_horizon(p_at);
    v_key record;
    v_base threadline.state_base;
    v_change threadline.readable_change;
    v_state threadline.audit_row_state;
    v_since timestamptz;
BEGIN
    SELECT k.table_id, k.row_key, k.key INTO v_key FROM threadline.key_given(p_target, p_key) k;
    PERFORM threadline.require_readable(v_key.table_id, p_target);
    IF threadline.is_full_row(v_key.table_id) THEN
        RETURN threadline.counted_row_state(v_key.table_id, v_key.row_key, v_key.key, v_horizon, p_at);
    END IF;
    v_base := threadline.state_base(v_key.table_id, v_horizon);
    v_change := threadline.latest_change(v_key.table_id, v_key.row_key, v_key.key, v_base.first_change_id, v_horizon);
    IF v_change.id IS NOT NULL THEN
        v_state.status := CASE WHEN v_change.op >= 3 THEN 'present' ELSE 'deleted' END;
        v_state.row_data := v_change.new_image;
        v_state.change_id := v_change.id;
        v_state.transaction_id := v_change.transaction_id;
        SELECT x.committed_at INTO v_state.committed_at
        FROM threadline.readable_transaction x WHERE x.id = v_change.transaction_id;
        IF v_change.op = 2 THEN
            v_state.moved_to := threadline.key_object(v_change.key_columns, v_change.old_key);
        END IF;
        v_since := v_state.committed_at;
    ELSIF v_base.purged THEN
        v_state.status := 'purged';
    ELSIF v_base.first_change_id IS NULL THEN
        v_state.status := 'before_horizon';
    ELSE
        -- The baseline did not find the row. A change before it tells that there was one, which went unrecorded.
        v_change := threadline.latest_change(v_key.table_id, v_key.row_key, v_key.key, NULL, v_base.first_change_id);
        v_state.status := CASE WHEN v_change.id IS NULL THEN 'never_seen' ELSE 'deleted' END;
        v_since := v_base.since;
    END IF;
    v_state.complete := v_since IS NOT NULL
        AND (v_state.status = 'present' OR NOT threadline.key_was_other(v_key.table_id, v_horizon))
        AND NOT EXISTS (SELECT FROM threadline.gaps_between(v_key.table_id, v_since, p_at))
        AND threadline.settled(p_at);
    RETURN v_state;
END
$$;

CREATE FUNCTION threadline.row_state(p_target regclass, p_key text, p_at timestamptz) RETURNS threadline.audit_row_state
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(threadline.row_state_at_once(p_target, p_key, p_at), threadline.row_state_by_query(p_target, p_key, p_at));
END
$$;

CREATE FUNCTION threadline.audit_as_of(target regclass, key text, at timestamptz) RETURNS SETOF threadline.audit_row_state
LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT s.* FROM threadline.row_state(audit_as_of.target, audit_as_of.key, audit_as_of.at) s;
END;

CREATE FUNCTION threadline.audit_as_of(target regclass, key bigint, at timestamptz) RETURNS SETOF threadline.audit_row_state
LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT s.* FROM threadline.row_state(audit_as_of.target, audit_as_of.key::text, audit_as_of.at) s;
END;

CREATE FUNCTION threadline.audit_as_of(target regclass, key uuid, at timestamptz) RETURNS SETOF threadline.audit_row_state
LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT s.* FROM threadline.row_state(audit_as_of.target, audit_as_of.key::text, audit_as_of.at) s;
END;

CREATE FUNCTION threadline.audit_as_of(target regclass, key jsonb, at timestamptz) RETURNS SETOF threadline.audit_row_state
LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT s.* FROM threadline.row_state(audit_as_of.target, threadline.key_text(audit_as_of.key), audit_as_of.at) s;
END;

-- The rows of a table at a horizon, as the viewer saw them if there is one, in their shapes of then.
CREATE FUNCTION threadline.table_state(p_table_id integer, p_from bigint, p_horizon bigint, p_viewer threadline.viewer DEFAULT NULL)
RETURNS TABLE (table_pk jsonb, schema_version integer, image jsonb, exact jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT s.table_pk, s.schema_version, s.new_image, s.new_exact
    FROM (
        SELECT DISTINCT ON (c.row_key, c.key) c.op, c.table_pk, c.schema_version, c.new_image, c.new_exact, x.commit_no, c.statement_no
        FROM threadline.readable_change c
        JOIN threadline.readable_transaction x ON x.id = c.transaction_id
        WHERE c.table_id = table_state.p_table_id
          AND c.id >= table_state.p_from AND c.id < table_state.p_horizon
          AND x.commit_no <= table_state.p_horizon
          AND threadline.is_seen(table_state.p_viewer, x.id, x.origin, x.xid)
        ORDER BY c.row_key, c.key, x.commit_no DESC, c.statement_no DESC, c.op DESC, c.id DESC
    ) s
    WHERE s.op >= 3
      AND NOT EXISTS (SELECT FROM threadline.last_mark(table_state.p_table_id, table_state.p_from, table_state.p_horizon, table_state.p_viewer) m
                      WHERE (s.commit_no, s.statement_no) < (m.commit_order, m.statement_no))
      AND NOT threadline.was_full_row(table_state.p_table_id, table_state.p_from)
    UNION ALL
    SELECT n.table_pk, n.schema_version, n.image, n.exact
    FROM threadline.counted_state(table_state.p_table_id, table_state.p_from, table_state.p_horizon, table_state.p_viewer) n
    WHERE threadline.was_full_row(table_state.p_table_id, table_state.p_from);
END;

-- Typed and whole-table answers have no room to say that they are incomplete: they raise. p_reason is given where nothing
-- else explains it; p_may_change is false where what is still in flight cannot matter.
CREATE FUNCTION threadline.report_incomplete(p_table text, p_table_id integer, p_since timestamptz, p_at timestamptz, p_reason text DEFAULT NULL,
                                             p_may_change boolean DEFAULT true)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_reasons text;
BEGIN
    SELECT string_agg(DISTINCT g.reason, ', ' ORDER BY g.reason) INTO v_reasons
    FROM threadline.gaps_between(p_table_id, p_since, p_at) g;
    IF p_may_change AND NOT threadline.settled(p_at) THEN
        v_reasons := concat_ws(', ', v_reasons, 'transactions still in flight');
    END IF;
    v_reasons := coalesce(v_reasons, p_reason);
    IF v_reasons IS NULL THEN
        RETURN;
    END IF;
    IF current_setting('threadline.incomplete', true) = 'error' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the history of table "%s" is incomplete at %s', p_table, p_at),
            DETAIL = format('Reasons: %s.', v_reasons),
            HINT = 'To get what is known: SET threadline.incomplete = warn;';
    END IF;
    RAISE WARNING USING
        MESSAGE = format('the history of table "%s" is incomplete at %s', p_table, p_at),
        DETAIL = format('Reasons: %s.', v_reasons),
        HINT = 'SELECT * FROM threadline.audit_gaps; SET threadline.incomplete = error makes this an error.';
END
$$;

CREATE FUNCTION threadline.refuse_unknown_past(p_table text, p_at timestamptz, p_purged boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format(CASE WHEN p_purged THEN 'the history of table "%s" at %s was purged'
                              ELSE 'the history of table "%s" does not reach back to %s' END, p_table, p_at),
        DETAIL = CASE WHEN p_purged THEN 'Rows that did not change since the purge are not known.'
                      ELSE 'Rows that existed before the first baseline and did not change since are not known.' END,
        HINT = format('SELECT threadline.audit_enable(%L, baseline => true); takes a baseline, from which later times can be answered.', p_table);
END
$$;

-- Checks shared by the whole-table forms; returns where the table's state starts.
CREATE FUNCTION threadline.table_state_start(p_table text, p_table_id integer, p_at timestamptz, p_horizon bigint, p_viewer threadline.viewer DEFAULT NULL)
RETURNS threadline.state_base
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    v_base constant threadline.state_base := threadline.state_base(p_table_id, p_horizon, p_viewer);
BEGIN
    IF v_base.purged OR v_base.first_change_id IS NULL THEN
        PERFORM threadline.refuse_unknown_past(p_table, p_at, v_base.purged);
    END IF;
    PERFORM threadline.report_incomplete(p_table, p_table_id, v_base.since, p_at,
        CASE WHEN threadline.was_full_row(p_table_id, v_base.first_change_id) AND threadline.counts_fail(p_table_id, v_base.first_change_id, p_horizon, p_viewer)
             THEN 'rows left that had not arrived' END,
        p_viewer IS NULL);
    RETURN v_base;
END
$$;

-- A table by the name the caller types: a living one through the search path, else one of that name that is
-- gone, the last that was captured. For a time before the living one was captured, one that is gone and was captured
-- by then. No SET search_path here: the caller's own decides.
CREATE FUNCTION threadline.table_by_name(p_name text, p_at timestamptz) RETURNS integer
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    v_relation constant regclass := pg_catalog.to_regclass(p_name);
    v_parts constant text[] := pg_catalog.parse_ident(p_name);
    v_table_id integer;
    v_enabled_at timestamptz;
BEGIN
    SELECT t.table_id, t.enabled_at INTO v_table_id, v_enabled_at
    FROM threadline.readable_table t
    WHERE t.relation = v_relation;
    IF v_table_id IS NULL OR p_at < v_enabled_at THEN
        v_table_id := coalesce((
            SELECT t.table_id
            FROM threadline.readable_table t
            WHERE t.relation IS NULL
              AND t.table_name = v_parts[pg_catalog.cardinality(v_parts)]
              AND (pg_catalog.cardinality(v_parts) = 1 OR t.table_schema = v_parts[1])
              AND (v_table_id IS NULL OR t.enabled_at <= p_at)
            ORDER BY t.table_id DESC
            LIMIT 1), v_table_id);
    END IF;
    IF v_table_id IS NULL THEN
        IF v_relation IS NOT NULL AND NOT pg_catalog.has_table_privilege(v_relation, 'SELECT') THEN
            PERFORM threadline.require_readable(NULL, v_relation);
        END IF;
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = pg_catalog.format('no readable history of a table named "%s"', p_name),
            DETAIL = 'The history of a dropped table is readable only for the owner of the log.',
            HINT = 'SELECT table_schema, table_name, enabled_at FROM threadline.audit_tables;';
    END IF;
    RETURN v_table_id;
END
$$;

CREATE FUNCTION threadline.audit_table_as_of(table_name text, at timestamptz) RETURNS SETOF threadline.audit_table_state_row
LANGUAGE plpgsql STABLE SET jit = off
AS $$
DECLARE
    v_horizon constant bigint := threadline.commit_horizon(audit_table_as_of.at);
    v_table_id constant integer := threadline.table_by_name(audit_table_as_of.table_name, audit_table_as_of.at);
BEGIN
    RETURN QUERY
    SELECT s.table_pk, s.image
    FROM threadline.table_state(
        v_table_id,
        (threadline.table_state_start(audit_table_as_of.table_name, v_table_id, audit_table_as_of.at, v_horizon)).first_change_id,
        v_horizon) s;
END
$$;


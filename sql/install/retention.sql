-- How long the record is kept, and removing what is older: oldest first, in batches that each commit.

CREATE FUNCTION threadline.audit_set_retention(
    keep                      interval DEFAULT NULL,
    target                    regclass DEFAULT NULL,
    enabled                   boolean  DEFAULT NULL,
    delete_empty_transactions boolean  DEFAULT NULL
)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    subject   CONSTANT text := coalesce('table ' || threadline.qualified_name(audit_set_retention.target), 'all tables');
    parent    CONSTANT regclass := threadline.captured_ancestor(audit_set_retention.target);
    policy_id integer := 0;
    now_set   threadline.retention_policy;
BEGIN
    IF audit_set_retention.target IS NOT NULL THEN
        policy_id := threadline.captured_id(audit_set_retention.target);
        IF policy_id IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'undefined_object',
                MESSAGE = format('%s has never been under capture', subject),
                DETAIL = CASE WHEN parent IS NOT NULL
                              THEN format('It is a partition of %s, whose policy it shares.', threadline.qualified_name(parent))
                              ELSE 'There is nothing of it to keep or remove.' END,
                HINT = CASE WHEN parent IS NOT NULL
                            THEN format('SELECT threadline.audit_set_retention(target => %L, …);', threadline.qualified_name(parent))
                            ELSE format('SELECT threadline.audit_enable(%L);', threadline.qualified_name(audit_set_retention.target)) END;
        END IF;
        IF audit_set_retention.delete_empty_transactions IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('delete_empty_transactions cannot be set for %s alone', subject),
                DETAIL = 'A transaction may have changed several tables.',
                HINT = format('SELECT threadline.audit_set_retention(delete_empty_transactions => %L);', audit_set_retention.delete_empty_transactions);
        END IF;
    END IF;
    -- The sum, too, since an interval such as 1 month -30 days has no sign of its own.
    IF audit_set_retention.keep <= interval '0' OR now() - audit_set_retention.keep >= now() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('the retention window of %s must be positive, not %s', subject, audit_set_retention.keep),
            HINT = 'SELECT threadline.audit_set_retention(keep => ''90 days'');';
    END IF;

    INSERT INTO threadline.retention_policy AS p (table_id, keep, enabled, delete_empty_transactions)
    VALUES (policy_id, audit_set_retention.keep, coalesce(audit_set_retention.enabled, false),
            coalesce(audit_set_retention.delete_empty_transactions, true))
    ON CONFLICT (table_id) DO UPDATE
    SET keep = coalesce(audit_set_retention.keep, p.keep),
        enabled = coalesce(audit_set_retention.enabled, p.enabled),
        delete_empty_transactions = coalesce(audit_set_retention.delete_empty_transactions, p.delete_empty_transactions)
    RETURNING * INTO now_set;

    IF now_set.enabled AND now_set.keep IS NULL
       AND NOT EXISTS (SELECT FROM threadline.retention_policy AS p WHERE p.table_id = 0 AND p.keep IS NOT NULL)
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('retention of %s has no window', subject),
            HINT = 'Say how long to keep: SELECT threadline.audit_set_retention(keep => ''90 days'', enabled => true);';
    END IF;
END
$$;

COMMENT ON FUNCTION threadline.audit_set_retention(interval, regclass, boolean, boolean) IS
    'Sets how long changes are kept (keep), for all tables or for one (target), and whether audit_purge may remove what is older (enabled; false until set to true). NULL keeps what is set. A table''s own policy takes the place of the global one: while it is not enabled, nothing of that table is removed; without a window of its own it takes the global one. delete_empty_transactions (default true, global only): also remove transactions none of whose changes is left. Errors: 22023 window not positive or missing; 42704 table never captured.';

-- What a run removes: for each table the time before which its changes go, {"7": {"table": "public.orders",
-- "cutoff": …, "deleted": 0}}, and the age at which an empty transaction goes: the global cutoff, or without
-- a global policy the oldest of the tables'.
CREATE FUNCTION threadline.purge_plan(cutoff timestamptz, OUT tables jsonb, OUT transactions_before timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    started CONSTANT timestamptz := clock_timestamp();
    everywhere threadline.retention_policy;
    oldest  timestamptz;
    newest  timestamptz;
    allowed timestamptz;
BEGIN
    SELECT * INTO everywhere FROM threadline.retention_policy AS p WHERE p.table_id = 0;
    SELECT jsonb_object_agg(t.table_id, jsonb_build_object(
               'table', format('%I.%I', t.schema_name, t.table_name),
               'cutoff', least(started - w.keep, purge_plan.cutoff),
               'deleted', 0)),
           min(started - w.keep), max(started - w.keep)
    INTO tables, oldest, newest
    FROM threadline.captured_table AS t
    LEFT JOIN threadline.retention_policy AS own ON own.table_id = t.table_id
    CROSS JOIN LATERAL (SELECT coalesce(own.keep, everywhere.keep) AS keep, coalesce(own.enabled, everywhere.enabled) AS enabled) AS w
    WHERE w.enabled AND w.keep IS NOT NULL;

    IF everywhere.enabled AND everywhere.keep IS NOT NULL THEN
        allowed := started - everywhere.keep;
        transactions_before := allowed;
    ELSE
        allowed := newest;
        transactions_before := oldest;
    END IF;
    IF allowed IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'retention is not enabled: nothing may be purged',
            HINT = 'SELECT threadline.audit_set_retention(keep => ''90 days'', enabled => true);';
    END IF;
    IF purge_plan.cutoff > allowed THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('cutoff %s is newer than the retention policy allows', purge_plan.cutoff),
            DETAIL = format('The policy keeps everything since %s.', allowed),
            HINT = 'Name an older cutoff or none; to keep less: SELECT threadline.audit_set_retention(keep => …);';
    END IF;
    tables := coalesce(tables, '{}');
    transactions_before := least(transactions_before, purge_plan.cutoff);
END
$$;

-- Every row a plan removes, oldest first. Those of moved rows and of negative table_id are helpers of a change
-- and are not counted as one.
CREATE FUNCTION threadline.purge_candidates(tables jsonb, max_rows bigint)
RETURNS TABLE (place bigint, id bigint, captured_at timestamptz, counted boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Known before the query is planned, so that newer partitions are not even opened.
    newest CONSTANT timestamptz := (SELECT max((p.value ->> 'cutoff')::timestamptz) FROM jsonb_each(purge_candidates.tables) AS p);
BEGIN
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY c.captured_at, c.id), c.id, c.captured_at, c.table_id > 0 AND c.op <> 2
    FROM threadline.change_log AS c
    JOIN (SELECT p.key::integer AS table_id, (p.value ->> 'cutoff')::timestamptz AS cutoff
          FROM jsonb_each(purge_candidates.tables) AS p) AS plan ON plan.table_id = abs(c.table_id)
    WHERE c.captured_at < newest AND c.captured_at < plan.cutoff
    ORDER BY c.captured_at, c.id
    LIMIT purge_candidates.max_rows;
END
$$;

-- The transactions that are empty once the candidates up to (last_at, last_id) are gone (NULL: as things are),
-- old enough, and without a newer action. All changes of a transaction have ids below its commit_no.
CREATE FUNCTION threadline.empty_transactions(tables jsonb, before timestamptz, last_at timestamptz, last_id bigint, max_rows bigint)
RETURNS TABLE (place bigint, id uuid)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newest CONSTANT bigint := (SELECT max(x.commit_no) FROM threadline.transaction_log AS x WHERE x.committed_at < empty_transactions.before);
BEGIN
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY x.committed_at, x.commit_no), x.id
    FROM threadline.transaction_log AS x
    WHERE x.committed_at < empty_transactions.before
      AND NOT EXISTS (SELECT FROM threadline.action_log AS a
                      WHERE a.transaction_id = x.id AND a.inserted_at >= empty_transactions.before)
      AND NOT EXISTS (
          SELECT FROM threadline.change_log AS c
          LEFT JOIN (SELECT p.key::integer AS table_id, (p.value ->> 'cutoff')::timestamptz AS cutoff
                     FROM jsonb_each(empty_transactions.tables) AS p) AS plan ON plan.table_id = abs(c.table_id)
          WHERE c.transaction_id = x.id AND c.id < newest
            AND NOT coalesce(c.captured_at < plan.cutoff
                             AND (c.captured_at, c.id) <= (empty_transactions.last_at, empty_transactions.last_id), false))
    ORDER BY x.committed_at, x.commit_no
    LIMIT empty_transactions.max_rows;
END
$$;

CREATE FUNCTION threadline.removes_empty_transactions() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT p.delete_empty_transactions FROM threadline.retention_policy AS p WHERE p.table_id = 0), true)
$$;

CREATE FUNCTION threadline.check_purge_arguments(batch_size integer, max_batches integer, sleep_ms integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problem CONSTANT text := CASE
        WHEN coalesce(check_purge_arguments.batch_size, 0) < 1 THEN 'batch_size must be at least 1'
        WHEN coalesce(check_purge_arguments.max_batches, 0) < 1 THEN 'max_batches must be at least 1'
        WHEN coalesce(check_purge_arguments.sleep_ms, -1) < 0 THEN 'sleep_ms must not be negative'
    END;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = problem,
            HINT = 'CALL threadline.audit_purge(batch_size => 500, max_batches => 10000, sleep_ms => 50);';
    END IF;
END
$$;

-- The dry run: the counts of a real run with the same arguments, by the same queries.
CREATE FUNCTION threadline.purge_preview(
    cutoff timestamptz, batch_size integer, max_batches integer, sleep_ms integer,
    OUT deleted_changes bigint, OUT deleted_transactions bigint
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    plan    record;
    rows    bigint;
    last_at timestamptz;
    last_id bigint;
BEGIN
    PERFORM threadline.check_purge_arguments(purge_preview.batch_size, purge_preview.max_batches, purge_preview.sleep_ms);
    plan := threadline.purge_plan(purge_preview.cutoff);
    SELECT count(*), count(*) FILTER (WHERE c.counted),
           max(c.captured_at), (array_agg(c.id ORDER BY c.place DESC))[1]
    INTO rows, deleted_changes, last_at, last_id
    FROM threadline.purge_candidates(plan.tables, purge_preview.batch_size::bigint * purge_preview.max_batches) AS c;
    deleted_transactions := 0;
    IF threadline.removes_empty_transactions() THEN
        SELECT count(*) INTO deleted_transactions
        FROM threadline.empty_transactions(
            plan.tables, plan.transactions_before, last_at, last_id,
            -- Batches are shared: changes first, transactions with those that are left.
            purge_preview.batch_size * (purge_preview.max_batches - (rows + purge_preview.batch_size - 1) / purge_preview.batch_size)) AS x;
    END IF;
    -- A standby and a READ ONLY transaction can look, only without a note of it.
    IF current_setting('transaction_read_only') = 'off' THEN
        INSERT INTO threadline.purge_run
            (started_at, finished_at, status, dry_run, cutoff, deleted_changes, deleted_transactions, tables, run_by)
        VALUES (statement_timestamp(), clock_timestamp(), 'completed', true, plan.transactions_before,
                deleted_changes, deleted_transactions, plan.tables, session_user);
    END IF;
END
$$;

-- One purge at a time. A lock of the transaction, since one of the session would outlive a failed run.
CREATE FUNCTION threadline.purge_lock_key() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN pg_catalog.hashtextextended('threadline.audit_purge', 0);

-- Every step of a real run locks first and makes sure that the run is still its own.
CREATE FUNCTION threadline.purge_enter(run_id bigint) RETURNS threadline.purge_run
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run threadline.purge_run;
BEGIN
    PERFORM pg_advisory_xact_lock(threadline.purge_lock_key());
    SELECT * INTO run FROM threadline.purge_run AS r WHERE r.run_id = purge_enter.run_id AND r.status = 'running' AND NOT r.dry_run;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('purge run %s is not running', coalesce(purge_enter.run_id::text, 'NULL')),
            HINT = 'CALL threadline.audit_purge(dry_run => false);';
    END IF;
    RETURN run;
END
$$;

CREATE FUNCTION threadline.purge_start(cutoff timestamptz, batch_size integer, max_batches integer, sleep_ms integer)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    plan    record;
    started bigint;
BEGIN
    PERFORM threadline.check_purge_arguments(purge_start.batch_size, purge_start.max_batches, purge_start.sleep_ms);
    plan := threadline.purge_plan(purge_start.cutoff);
    IF NOT pg_try_advisory_xact_lock(threadline.purge_lock_key()) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'lock_not_available',
            MESSAGE = 'another purge is running',
            DETAIL = (SELECT format('It was started at %s by %s.', r.started_at, r.run_by)
                      FROM threadline.purge_run AS r WHERE r.status = 'running' ORDER BY r.run_id DESC LIMIT 1),
            HINT = 'Wait for it: SELECT * FROM threadline.audit_purge_runs ORDER BY run_id DESC LIMIT 1;';
    END IF;
    UPDATE threadline.purge_run AS r
    SET status = 'failed', finished_at = clock_timestamp(), error_message = 'ended without finishing'
    WHERE r.status = 'running';
    INSERT INTO threadline.purge_run AS r (started_at, status, dry_run, cutoff, tables, run_by)
    VALUES (clock_timestamp(), 'running', false, plan.transactions_before, plan.tables, session_user)
    RETURNING r.run_id INTO started;
    RETURN started;
END
$$;

CREATE FUNCTION threadline.purge_change_batches(run_id bigint, batch_size integer, max_batches integer)
RETURNS TABLE (ids bigint[], first_at timestamptz, last_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run CONSTANT threadline.purge_run := threadline.purge_enter(purge_change_batches.run_id);
BEGIN
    RETURN QUERY
    SELECT array_agg(c.id ORDER BY c.place), min(c.captured_at), max(c.captured_at)
    FROM threadline.purge_candidates(run.tables, purge_change_batches.batch_size::bigint * purge_change_batches.max_batches) AS c
    GROUP BY (c.place - 1) / purge_change_batches.batch_size
    ORDER BY min(c.place);
END
$$;

-- A delta whose whole image goes takes its place, and with it the rest of its transaction: see recorded_change in views.sql.
CREATE FUNCTION threadline.complete_deltas(ids bigint[], first_at timestamptz, last_at timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    heir record;
BEGIN
    FOR heir IN
        SELECT DISTINCT k.table_id, k.row_key, k.key, n.transaction_id
        FROM (SELECT w.table_id, w.row_key, w.key, min(w.id) AS first_id, max(w.id) AS last_id
              FROM threadline.change_log AS w
              WHERE w.id = ANY (complete_deltas.ids) AND w.captured_at BETWEEN complete_deltas.first_at AND complete_deltas.last_at
                AND w.table_id IN (SELECT t.table_id FROM threadline.captured_table AS t WHERE t.has_deltas)
              GROUP BY w.table_id, w.row_key, w.key) AS k
        CROSS JOIN LATERAL (
            -- Those in between stay only where a clock was set back.
            SELECT n.transaction_id, n.op
            FROM threadline.change_log AS n
            WHERE n.table_id = k.table_id AND n.row_key = k.row_key AND n.key = k.key
              AND n.id BETWEEN k.first_id AND k.last_id AND n.id NOT IN (SELECT unnest(complete_deltas.ids))
            UNION ALL
            (SELECT n.transaction_id, n.op
             FROM threadline.change_log AS n
             WHERE n.table_id = k.table_id AND n.row_key = k.row_key AND n.key = k.key AND n.id > k.last_id
             ORDER BY n.id LIMIT 1)) AS n
        WHERE n.op = 6
    LOOP
        UPDATE threadline.change_log AS c
        SET (op, new_image, new_exact) = (SELECT 5, r.new_image, r.new_exact FROM threadline.recorded_change AS r
                                          WHERE r.table_id = heir.table_id AND r.row_key = heir.row_key AND r.key = heir.key AND r.id = c.id)
        WHERE c.table_id = heir.table_id AND c.row_key = heir.row_key AND c.key = heir.key
          AND c.transaction_id = heir.transaction_id AND c.op = 6;
    END LOOP;
END
$$;

-- The ids are a proposal: what goes is what the run's own plan says, whoever calls. Rows somebody holds are left to the next run.
CREATE FUNCTION threadline.purge_change_batch(run_id bigint, ids bigint[], first_at timestamptz, last_at timestamptz, sleep_ms integer)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run  threadline.purge_run := threadline.purge_enter(purge_change_batch.run_id);
    gone record;
BEGIN
    IF run.batches_run > 0 THEN
        PERFORM pg_sleep(purge_change_batch.sleep_ms / 1000.0);
    END IF;
    IF EXISTS (SELECT FROM threadline.captured_table AS t WHERE t.has_deltas AND run.tables ? t.table_id::text) THEN
        PERFORM threadline.complete_deltas(purge_change_batch.ids, purge_change_batch.first_at, purge_change_batch.last_at);
    END IF;
    FOR gone IN
        WITH held AS (
            SELECT c.id
            FROM threadline.change_log AS c
            WHERE c.id = ANY (purge_change_batch.ids)
              AND c.captured_at BETWEEN purge_change_batch.first_at AND purge_change_batch.last_at
              AND c.captured_at < (run.tables -> abs(c.table_id)::text ->> 'cutoff')::timestamptz
            ORDER BY c.captured_at, c.id
            FOR UPDATE SKIP LOCKED
        ), deleted AS (
            DELETE FROM threadline.change_log AS c
            WHERE c.id = ANY (ARRAY(SELECT h.id FROM held AS h))
              AND c.captured_at BETWEEN purge_change_batch.first_at AND purge_change_batch.last_at
            RETURNING abs(c.table_id) AS table_id, c.table_id > 0 AND c.op <> 2 AS counted, c.captured_at
        )
        SELECT d.table_id, count(*) FILTER (WHERE d.counted) AS changes, max(d.captured_at) AS newest
        FROM deleted AS d
        GROUP BY d.table_id
    LOOP
        -- Just past the newest that went, so that "before" takes it in.
        INSERT INTO threadline.purge_watermark AS w (table_id, purged_before)
        VALUES (gone.table_id, gone.newest + interval '1 microsecond')
        ON CONFLICT (table_id) DO UPDATE SET purged_before = greatest(w.purged_before, excluded.purged_before);
        run.deleted_changes := run.deleted_changes + gone.changes;
        run.tables := jsonb_set(run.tables, ARRAY[gone.table_id::text, 'deleted'],
                                to_jsonb((run.tables -> gone.table_id::text ->> 'deleted')::bigint + gone.changes));
    END LOOP;
    UPDATE threadline.purge_run AS r
    SET deleted_changes = run.deleted_changes, tables = run.tables, batches_run = r.batches_run + 1
    WHERE r.run_id = run.run_id;
END
$$;

CREATE FUNCTION threadline.purge_transaction_batches(run_id bigint, batch_size integer, max_batches integer)
RETURNS TABLE (ids uuid[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run CONSTANT threadline.purge_run := threadline.purge_enter(purge_transaction_batches.run_id);
BEGIN
    IF threadline.removes_empty_transactions() THEN
        RETURN QUERY
        SELECT array_agg(x.id ORDER BY x.place)
        FROM threadline.empty_transactions(
            run.tables, run.cutoff, NULL, NULL,
            purge_transaction_batches.batch_size::bigint * (purge_transaction_batches.max_batches - run.batches_run)) AS x
        GROUP BY (x.place - 1) / purge_transaction_batches.batch_size
        ORDER BY min(x.place);
    END IF;
END
$$;

-- Nothing is ever added to a transaction that has ended, but the ids are a caller's: they are judged again.
CREATE FUNCTION threadline.purge_transaction_batch(run_id bigint, ids uuid[], sleep_ms integer)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run  CONSTANT threadline.purge_run := threadline.purge_enter(purge_transaction_batch.run_id);
    held uuid[];
    first_id bigint;
    last_id  bigint;
    went bigint;
BEGIN
    IF run.batches_run > 0 THEN
        PERFORM pg_sleep(purge_transaction_batch.sleep_ms / 1000.0);
    END IF;
    held := ARRAY(
        SELECT x.id
        FROM threadline.transaction_log AS x
        WHERE x.id = ANY (purge_transaction_batch.ids) AND x.committed_at < run.cutoff
          AND threadline.removes_empty_transactions()
          AND NOT EXISTS (SELECT FROM threadline.action_log AS a WHERE a.transaction_id = x.id AND a.inserted_at >= run.cutoff)
        ORDER BY x.committed_at, x.commit_no
        FOR UPDATE OF x SKIP LOCKED);
    SELECT min(lower(x.change_ids)), max(x.commit_no) INTO first_id, last_id
    FROM threadline.transaction_log AS x WHERE x.id = ANY (held);
    held := ARRAY(
        SELECT h.id FROM unnest(held) AS h (id)
        EXCEPT
        SELECT c.transaction_id FROM threadline.change_log AS c WHERE c.id >= first_id AND c.id < last_id);
    DELETE FROM threadline.action_log AS a WHERE a.transaction_id = ANY (held);
    DELETE FROM threadline.transaction_log AS x WHERE x.id = ANY (held);
    GET DIAGNOSTICS went = ROW_COUNT;
    UPDATE threadline.purge_run AS r
    SET deleted_transactions = r.deleted_transactions + went, batches_run = r.batches_run + 1
    WHERE r.run_id = run.run_id;
END
$$;

CREATE FUNCTION threadline.purge_finish(run_id bigint, error_message text)
RETURNS threadline.purge_run
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run threadline.purge_run := threadline.purge_enter(purge_finish.run_id);
BEGIN
    UPDATE threadline.purge_run AS r
    SET status = CASE WHEN purge_finish.error_message IS NULL THEN 'completed' ELSE 'failed' END,
        finished_at = clock_timestamp(), error_message = purge_finish.error_message
    WHERE r.run_id = purge_finish.run_id
    RETURNING r.* INTO run;
    RETURN run;
END
$$;

-- Where a COMMIT is out of place the server says why, in the session's language. A function is always such a
-- place: a COMMIT refused for the same reason was tried inside a transaction block (or another function).
CREATE FUNCTION threadline.refuse_inside_transaction(refusal text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refusal_in_function text;
BEGIN
    BEGIN
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        refusal_in_function := SQLERRM;
    END;
    IF refuse_inside_transaction.refusal = refusal_in_function THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_transaction_termination',
            MESSAGE = 'audit_purge cannot run inside a transaction block: it commits each batch',
            HINT = 'End the transaction first, or look at what would go: CALL threadline.audit_purge(dry_run => true);';
    END IF;
END
$$;

-- A procedure that commits can have neither SET nor SECURITY DEFINER: it decides nothing and calls what can.
CREATE PROCEDURE threadline.audit_purge(
    dry_run     boolean     DEFAULT true,
    cutoff      timestamptz DEFAULT NULL,
    batch_size  integer     DEFAULT 500,
    max_batches integer     DEFAULT 10000,
    sleep_ms    integer     DEFAULT 50,
    INOUT deleted_changes      bigint  DEFAULT NULL,
    INOUT deleted_transactions bigint  DEFAULT NULL,
    INOUT batches_run          integer DEFAULT NULL
)
LANGUAGE plpgsql
AS $$
DECLARE
    refusal pg_catalog.text;
    run     bigint;
    batch   record;
    failed  boolean := false;
    code    pg_catalog.text;
    failure pg_catalog.text;
    detail  pg_catalog.text;
    hint    pg_catalog.text;
BEGIN
    IF audit_purge.dry_run IS NOT FALSE THEN
        SELECT p.deleted_changes, p.deleted_transactions, 0
        INTO audit_purge.deleted_changes, audit_purge.deleted_transactions, audit_purge.batches_run
        FROM threadline.purge_preview(audit_purge.cutoff, audit_purge.batch_size, audit_purge.max_batches, audit_purge.sleep_ms) AS p;
        RETURN;
    END IF;
    BEGIN
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        refusal := SQLERRM;
    END;
    PERFORM threadline.refuse_inside_transaction(refusal);

    run := threadline.purge_start(audit_purge.cutoff, audit_purge.batch_size, audit_purge.max_batches, audit_purge.sleep_ms);
    COMMIT;
    FOR batch IN
        SELECT b.ids, b.first_at, b.last_at
        FROM threadline.purge_change_batches(run, audit_purge.batch_size, audit_purge.max_batches) AS b
    LOOP
        BEGIN
            PERFORM threadline.purge_change_batch(run, batch.ids, batch.first_at, batch.last_at, audit_purge.sleep_ms);
        EXCEPTION WHEN OTHERS OR query_canceled THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, failure = MESSAGE_TEXT,
                detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            failed := true;
        END;
        EXIT WHEN failed;
        COMMIT;
    END LOOP;
    IF NOT failed THEN
        FOR batch IN
            SELECT b.ids FROM threadline.purge_transaction_batches(run, audit_purge.batch_size, audit_purge.max_batches) AS b
        LOOP
            BEGIN
                PERFORM threadline.purge_transaction_batch(run, batch.ids, audit_purge.sleep_ms);
            EXCEPTION WHEN OTHERS OR query_canceled THEN
                GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, failure = MESSAGE_TEXT,
                    detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
                failed := true;
            END;
            EXIT WHEN failed;
            COMMIT;
        END LOOP;
    END IF;
    SELECT f.deleted_changes, f.deleted_transactions, f.batches_run
    INTO audit_purge.deleted_changes, audit_purge.deleted_transactions, audit_purge.batches_run
    FROM threadline.purge_finish(run, failure) AS f;
    COMMIT;
    IF failed THEN
        RAISE EXCEPTION USING
            ERRCODE = code,
            MESSAGE = failure,
            DETAIL = coalesce(nullif(detail, ''), 'What earlier batches removed stays removed.'),
            HINT = coalesce(nullif(hint, ''), 'Go on with: CALL threadline.audit_purge(dry_run => false);');
    END IF;
END
$$;

COMMENT ON PROCEDURE threadline.audit_purge(boolean, timestamptz, integer, integer, integer, bigint, bigint, integer) IS
    'Removes changes captured before (not at) the cutoff of their table''s retention policy, oldest first, then transactions of which nothing is left. cutoff may only ask for less than the policy allows. Commits every batch of batch_size rows and waits sleep_ms milliseconds between two; stops after max_batches. dry_run (the default) counts what a real run with the same arguments would remove, and runs anywhere. Returns the numbers of changes, transactions and batches; each run is in audit_purge_runs. Errors: 55000 retention not enabled; 22023 cutoff newer than the policy''s, bad batch_size, max_batches or sleep_ms; 2D000 real run inside a transaction block; 55P03 another purge is running.';

CREATE VIEW threadline.audit_purge_runs AS
SELECT r.run_id, r.started_at, r.finished_at, r.status, r.dry_run, r.cutoff, r.deleted_changes, r.deleted_transactions,
       r.batches_run, r.tables, r.run_by, r.error_message
FROM threadline.purge_run AS r;

COMMENT ON VIEW threadline.audit_purge_runs IS
    'Every run of audit_purge: status running, completed or failed, what it removed, and per table (by table_id) the cutoff and the number of changes removed. cutoff is that of transactions.';

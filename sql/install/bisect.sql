-- incident_bisect: the first transaction after which a predicate over the captured tables is true.

CREATE TYPE threadline.audit_bisect_row AS (
    transaction_id uuid,
    committed_at   timestamptz,
    actor_ref      jsonb,
    evaluations    integer,
    verdict        text,
    detail         jsonb
);
COMMENT ON TYPE threadline.audit_bisect_row IS 'What incident_bisect() found.';
COMMENT ON COLUMN threadline.audit_bisect_row.transaction_id IS 'The first transaction after which the predicate is true; NULL unless found.';
COMMENT ON COLUMN threadline.audit_bisect_row.actor_ref IS 'For whom it acted, as it said itself.';
COMMENT ON COLUMN threadline.audit_bisect_row.evaluations IS 'How often the predicate was evaluated.';
COMMENT ON COLUMN threadline.audit_bisect_row.verdict IS 'found; never_true (false at good and after every transaction of the window); already_true (at good); unknown (the history of the window is incomplete).';
COMMENT ON COLUMN threadline.audit_bisect_row.detail IS 'tables; method (forward scan or binary search) with what it assumed; transactions of the window that touched the tables; rows_applied; null_evaluations (NULL counts as false); in_the_present (tables named that have no past); reasons (by table, of unknown) and candidate (what would have been found); next (SQL to go on with).';

CREATE TYPE threadline.bisect_progress AS (
    evaluations integer,
    nulls       integer,
    row_count   bigint,
    already     boolean,
    guilty      bigint
);

-- What a view's query names: relations, and whether a name without a schema means them in the caller's search_path.
CREATE FUNCTION threadline.bisect_named(p_view regclass) RETURNS TABLE (relation regclass, is_visible boolean)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT DISTINCT d.refobjid::regclass, pg_catalog.pg_table_is_visible(d.refobjid)
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
    WHERE r.ev_class = bisect_named.p_view AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> bisect_named.p_view;
END;

CREATE FUNCTION threadline.bisect_begin(p_predicate text, p_good timestamptz, p_bad timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_predicate IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'the predicate is NULL',
            HINT = 'SELECT * FROM threadline.incident_bisect(''EXISTS (SELECT FROM accounts WHERE balance < 0)'', good => ''2024-03-15 10:00Z'', bad => ''2024-03-15 11:00Z'');';
    END IF;
    IF p_good >= p_bad THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('good, %s, is not before bad, %s', p_good, p_bad),
            HINT = 'good is a time when the predicate was still false, bad a later one.';
    END IF;
    PERFORM threadline.bisect_open('incident_bisect', 'SELECT EXISTS (SELECT FROM threadline.audit_as_of(NULL::accounts, ''2024-03-15 10:30Z'') WHERE balance < 0); for times between good and bad, each time in the middle.');
END
$$;

-- Begins to go through states, on behalf of p_caller; p_instead: what can be done where that cannot.
CREATE FUNCTION threadline.bisect_open(p_caller text, p_instead text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM threadline.require_temporary(p_caller, p_instead);
    IF threadline.time_travelling_at() IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('the session is in the past, at %s, where table names mean something else', threadline.time_travelling_at()),
            HINT = 'SELECT threadline.time_return();';
    END IF;
    CREATE TEMPORARY TABLE threadline_bisect_transaction (
        commit_no    bigint,
        id           uuid,
        committed_at timestamptz,
        actor_ref    jsonb,
        first_id     bigint
    );
END
$$;

-- Makes a view of the predicate. No SET search_path: the caller's own says what its names mean.
CREATE FUNCTION threadline.bisect_view(p_view text, p_predicate text) RETURNS regclass
LANGUAGE plpgsql
AS $$
DECLARE
    -- On a line of its own, for the predicate may end in a comment.
    v_query constant text := pg_catalog.concat('SELECT (', pg_catalog.rtrim(p_predicate, E' \t\n;'), E'\n) AS holds');
    v_cursor refcursor;
    v_view regclass;
BEGIN
    -- A cursor takes one query and nothing that writes: a predicate that closes the parenthesis and goes on ends here.
    BEGIN
        PERFORM pg_catalog.set_config('transaction_read_only', 'on', true);
        OPEN v_cursor FOR EXECUTE v_query;
        CLOSE v_cursor;
    EXCEPTION WHEN invalid_cursor_definition THEN
        RAISE EXCEPTION USING
            ERRCODE = 'syntax_error',
            MESSAGE = 'the predicate is not one boolean expression or query',
            DETAIL = SQLERRM,
            HINT = 'EXISTS (SELECT FROM accounts WHERE balance < 0), or SELECT sum(balance) < 0 FROM accounts';
    END;
    EXECUTE pg_catalog.format('CREATE TEMPORARY VIEW %I AS %s', p_view, v_query);
    v_view := pg_catalog.to_regclass('pg_temp.' || p_view);
    PERFORM threadline.drop_together(v_view, 'pg_temp.threadline_bisect_transaction'::pg_catalog.regclass);
    PERFORM threadline.bisect_check_view(v_view);
    RETURN v_view;
END
$$;

CREATE FUNCTION threadline.bisect_check_view(p_view regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_types constant text := (
        SELECT string_agg(format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = p_view AND a.attnum > 0);
BEGIN
    IF v_types <> 'boolean' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'datatype_mismatch',
            MESSAGE = format('the predicate is of type %s, not boolean', v_types),
            HINT = 'EXISTS (SELECT FROM accounts WHERE balance < 0), or SELECT sum(balance) < 0 FROM accounts';
    END IF;
    IF threadline.view_is_volatile(p_view) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = 'the predicate calls a volatile function',
            DETAIL = 'It is evaluated on many states and must tell of them alone, and change nothing.',
            HINT = 'Write it without the function, or declare a function that only reads: ALTER FUNCTION … STABLE;';
    END IF;
END
$$;

-- The tables that the predicate names, with what is known of them at good. p_named: what bisect_named found.
CREATE FUNCTION threadline.bisect_tables(p_named regclass[], p_horizon bigint, p_what text DEFAULT 'the predicate') RETURNS threadline.bisect_table[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_relation regclass;
    v_root regclass;
    v_kind "char";
    v_table threadline.bisect_table;
    v_tables threadline.bisect_table[] := '{}';
BEGIN
    FOREACH v_relation IN ARRAY p_named LOOP
        SELECT c.relkind INTO v_kind FROM pg_class c WHERE c.oid = v_relation;
        IF v_kind IN ('v', 'm') THEN
            RAISE EXCEPTION USING
                ERRCODE = 'feature_not_supported',
                MESSAGE = format('%s reads view %s, which would show the present', p_what, threadline.qualified_name(v_relation)),
                HINT = 'Write out its query over the tables: SELECT pg_get_viewdef(' || quote_literal(threadline.qualified_name(v_relation)) || ', true);';
        END IF;
        SELECT t.table_id INTO v_table.table_id FROM threadline.readable_table t WHERE t.relation = v_relation;
        IF v_table.table_id IS NULL THEN
            IF NOT has_table_privilege(v_relation, 'SELECT') OR row_security_active(v_relation) THEN
                PERFORM threadline.require_readable(NULL, v_relation);
            END IF;
            SELECT p.relid INTO v_root
            FROM pg_partition_ancestors(v_relation) AS p (relid) JOIN threadline.readable_table t ON t.relation = p.relid
            LIMIT 1;
            IF v_root IS NOT NULL THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'feature_not_supported',
                    MESSAGE = format('the history of partition %s is that of its partitioned table', threadline.qualified_name(v_relation)),
                    HINT = format('Name %s instead.', threadline.qualified_name(v_root));
            END IF;
            CONTINUE;
        END IF;
        IF threadline.has_children(v_relation) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'feature_not_supported',
                MESSAGE = format('table %s has children by inheritance, whose rows its history does not have', threadline.qualified_name(v_relation)),
                HINT = 'Name the children instead.';
        END IF;
        v_table.n := cardinality(v_tables) + 1;
        v_table.relation := v_relation;
        v_table.prefix := 'threadline_';
        WHILE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = v_relation AND starts_with(a.attname, v_table.prefix)) LOOP
            v_table.prefix := v_table.prefix || '_';
        END LOOP;
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO v_table.columns
        FROM pg_attribute a WHERE a.attrelid = v_relation AND a.attnum > 0 AND NOT a.attisdropped;
        SELECT b.first_change_id, b.since, b.purged INTO v_table.first_change_id, v_table.since, v_table.purged
        FROM threadline.state_base(v_table.table_id, p_horizon) b;
        v_table.counted := threadline.was_full_row(v_table.table_id, v_table.first_change_id);
        v_tables := v_tables || v_table;
    END LOOP;
    IF cardinality(v_tables) = 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('%s names no table under capture', p_what),
            DETAIL = format('It names %s.', coalesce(nullif(array_to_string(p_named, ', '), ''), 'no table at all')),
            HINT = 'SELECT table_schema, table_name, enabled_at FROM threadline.audit_tables;';
    END IF;
    RETURN v_tables;
END
$$;

-- Such names would go on meaning the present.
CREATE FUNCTION threadline.bisect_refuse_qualified(p_relations regclass[], p_what text DEFAULT 'the predicate') RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name constant text := (
        SELECT threadline.qualified_name(t.relation) FROM threadline.readable_table t
        WHERE t.relation = ANY (p_relations) ORDER BY t.table_id LIMIT 1);
BEGIN
    IF v_name IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = format('%s names table %s with its schema, which would show the present', p_what, v_name),
            HINT = 'Write the table''s name alone, with its schema on search_path.';
    END IF;
END
$$;

-- The tables named that have no past and are read as they are.
CREATE FUNCTION threadline.bisect_present(p_named regclass[], p_tables threadline.bisect_table[]) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_names constant text[] := ARRAY(
        SELECT threadline.qualified_name(n.relation) FROM unnest(p_named) AS n (relation)
        WHERE n.relation <> ALL (ARRAY(SELECT t.relation FROM unnest(p_tables) t)) ORDER BY 1);
BEGIN
    IF cardinality(v_names) > 0 AND current_setting('threadline.uncaptured', true) = 'refuse' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table %s, which the predicate names, has no past that you can read', v_names[1]),
            HINT = format('SELECT threadline.audit_enable(%L); gives it one from then on. To read it as it is now: SET threadline.uncaptured = pass;', v_names[1]);
    END IF;
    RETURN v_names;
END
$$;

-- Whether rows are known otherwise at the end of the window than at good: counted at one of them only, or by other columns.
CREATE FUNCTION threadline.bisect_key_changed(p_table threadline.bisect_table, p_end bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN threadline.was_full_row((p_table).table_id, p_end) <> (p_table).counted
    OR EXISTS (
        SELECT
        FROM threadline.readable_table t
        WHERE t.table_id = (p_table).table_id AND t.rekeyed
          AND (SELECT v.key_columns FROM threadline.readable_version v
               WHERE v.table_id = t.table_id AND v.from_change_id <= p_end ORDER BY v.version DESC LIMIT 1)
              IS DISTINCT FROM
              (SELECT v.key_columns FROM threadline.readable_version v
               WHERE v.table_id = t.table_id AND v.from_change_id <= (p_table).first_change_id ORDER BY v.version DESC LIMIT 1));

-- Why the history of the window is no ground for a verdict, by table; an empty object when it is.
CREATE FUNCTION threadline.bisect_reasons(p_tables threadline.bisect_table[], p_end bigint, p_bad timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(threadline.qualified_name(r.relation), r.reasons), '{}')
    FROM (
        SELECT t.relation,
               CASE WHEN t.purged THEN ARRAY['purged']
                    WHEN t.first_change_id IS NULL THEN ARRAY['does not reach back to good']
                    ELSE ARRAY(SELECT DISTINCT g.reason FROM threadline.gaps_between(t.table_id, t.since, p_bad) g ORDER BY g.reason)
                         || CASE WHEN threadline.bisect_key_changed(t, p_end) THEN ARRAY['key changed'] ELSE '{}' END
                         || CASE WHEN t.counted AND threadline.counts_fail(t.table_id, t.first_change_id, p_end) THEN ARRAY['rows left that had not arrived'] ELSE '{}' END
               END AS reasons
        FROM unnest(p_tables) t
    ) r
    WHERE cardinality(r.reasons) > 0
$$;

CREATE FUNCTION threadline.bisect_place(p_commit_no bigint) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT format('after transaction %s, committed at %s', x.id, x.committed_at)
                     FROM pg_temp.threadline_bisect_transaction x WHERE x.commit_no = p_commit_no), 'at good')
$$;

-- The predicate on the state there is now, which is that after p_commit_no, or at good. What it calls may write as little as in a
-- read-only transaction. No SET here: what it calls runs in the caller's settings.
CREATE FUNCTION threadline.bisect_evaluate(p_commit_no bigint) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    v_holds boolean;
    v_code text;
    v_message text;
    v_detail text;
BEGIN
    BEGIN
        -- The server gives the transaction back its own when this block, a subtransaction, ends.
        PERFORM pg_catalog.set_config('transaction_read_only', 'on', true);
        EXECUTE 'SELECT p.holds FROM pg_temp.threadline_bisect_predicate p' INTO v_holds;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS v_code = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL;
        RAISE EXCEPTION USING
            ERRCODE = v_code,
            MESSAGE = pg_catalog.format('the predicate fails %s: %s', threadline.bisect_place(p_commit_no), v_message),
            DETAIL = v_detail,
            HINT = 'Make the predicate bear that state, or choose a good after it or a bad before it.';
    END;
    RETURN v_holds;
END
$$;

CREATE FUNCTION threadline.bisect_forward(p_tables threadline.bisect_table[]) RETURNS threadline.bisect_progress
LANGUAGE plpgsql
AS $$
DECLARE
    v_progress threadline.bisect_progress;
    v_step record;
    v_holds boolean := threadline.bisect_evaluate(NULL);
    v_rows bigint;
    v_stale bigint := 0;
    v_most constant bigint := 20000 + (SELECT pg_catalog.sum(t.row_count) FROM pg_catalog.unnest(p_tables) t);
BEGIN
    v_progress.evaluations := 1;
    v_progress.nulls := CASE WHEN v_holds IS NULL THEN 1 ELSE 0 END;
    v_progress.row_count := 0;
    v_progress.already := v_holds IS TRUE;
    IF v_progress.already THEN
        RETURN v_progress;
    END IF;
    FOR v_step IN SELECT s.commit_no, s.tables FROM pg_temp.threadline_bisect_step s ORDER BY s.commit_no LOOP
        v_rows := threadline.bisect_apply(p_tables, v_step.tables, v_step.commit_no - 1, v_step.commit_no);
        v_progress.row_count := v_progress.row_count + v_rows;
        v_stale := v_stale + v_rows;
        IF v_stale > v_most THEN
            PERFORM threadline.bisect_compact(p_tables);
            v_stale := 0;
        END IF;
        v_holds := threadline.bisect_evaluate(v_step.commit_no);
        v_progress.evaluations := v_progress.evaluations + 1;
        v_progress.nulls := v_progress.nulls + CASE WHEN v_holds IS NULL THEN 1 ELSE 0 END;
        IF v_holds THEN
            v_progress.guilty := v_step.commit_no;
            EXIT;
        END IF;
    END LOOP;
    RETURN v_progress;
END
$$;

-- The last transaction first: where the predicate is false after that, it never was true. The state stays at the last place
-- where it was false; a try that finds it true is rolled back.
CREATE FUNCTION threadline.bisect_binary(p_tables threadline.bisect_table[]) RETURNS threadline.bisect_progress
LANGUAGE plpgsql
AS $$
DECLARE
    v_steps constant bigint[] := ARRAY(SELECT s.commit_no FROM pg_temp.threadline_bisect_step s ORDER BY s.commit_no);
    v_all constant integer[] := ARRAY(SELECT t.n FROM pg_catalog.unnest(p_tables) t);
    v_progress threadline.bisect_progress;
    v_holds boolean := threadline.bisect_evaluate(NULL);
    v_low integer := 0;
    v_high integer := pg_catalog.cardinality(v_steps) + 1;
    v_try integer := pg_catalog.cardinality(v_steps);
BEGIN
    v_progress.evaluations := 1;
    v_progress.nulls := CASE WHEN v_holds IS NULL THEN 1 ELSE 0 END;
    v_progress.row_count := 0;
    v_progress.already := v_holds IS TRUE;
    WHILE NOT v_progress.already AND v_high - v_low > 1 LOOP
        BEGIN
            v_progress.row_count := v_progress.row_count
                + threadline.bisect_apply(p_tables, v_all, coalesce(v_steps[v_low], 0), v_steps[v_try]);
            v_holds := threadline.bisect_evaluate(v_steps[v_try]);
            v_progress.evaluations := v_progress.evaluations + 1;
            v_progress.nulls := v_progress.nulls + CASE WHEN v_holds IS NULL THEN 1 ELSE 0 END;
            IF v_holds THEN
                RAISE EXCEPTION USING ERRCODE = 'TFB01', MESSAGE = 'back to where the predicate was false';
            END IF;
            v_low := v_try;
        EXCEPTION WHEN SQLSTATE 'TFB01' THEN
            v_high := v_try;
        END;
        v_try := (v_low + v_high) / 2;
    END LOOP;
    v_progress.guilty := v_steps[v_high];
    RETURN v_progress;
END
$$;

CREATE FUNCTION threadline.bisect_result(p_tables threadline.bisect_table[], p_present text[], p_reasons jsonb, p_monotone boolean, p_progress threadline.bisect_progress)
RETURNS threadline.audit_bisect_row
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_result threadline.audit_bisect_row;
    v_guilty record;
    v_verdict text := CASE WHEN p_progress.evaluations IS NULL THEN NULL
                           WHEN p_progress.already THEN 'already_true'
                           WHEN p_progress.guilty IS NULL THEN 'never_true'
                           ELSE 'found' END;
BEGIN
    v_result.evaluations := coalesce(p_progress.evaluations, 0);
    v_result.detail := jsonb_build_object(
        'tables', (SELECT jsonb_agg(threadline.qualified_name(t.relation) ORDER BY t.n) FROM unnest(p_tables) t),
        'method', CASE WHEN p_monotone THEN 'binary search' ELSE 'forward scan' END,
        'rows_applied', coalesce(p_progress.row_count, 0));
    IF p_monotone THEN
        v_result.detail := v_result.detail || '{"assumed": "once true, the predicate stays true until bad"}';
    END IF;
    IF v_verdict IS NOT NULL THEN
        v_result.detail := v_result.detail || jsonb_build_object('transactions', (SELECT count(*) FROM pg_temp.threadline_bisect_step));
    END IF;
    IF p_progress.nulls > 0 THEN
        v_result.detail := v_result.detail || jsonb_build_object('null_evaluations', p_progress.nulls);
    END IF;
    IF cardinality(p_present) > 0 THEN
        v_result.detail := v_result.detail || jsonb_build_object('in_the_present', p_present);
    END IF;
    SELECT x.id, x.committed_at, x.actor_ref INTO v_guilty
    FROM pg_temp.threadline_bisect_transaction x WHERE x.commit_no = p_progress.guilty;
    IF p_reasons <> '{}' THEN
        v_result.verdict := 'unknown';
        v_result.detail := v_result.detail || jsonb_build_object(
            'reasons', p_reasons,
            'candidate', CASE WHEN v_verdict IS NOT NULL
                              THEN jsonb_build_object('verdict', v_verdict, 'transaction_id', v_guilty.id, 'committed_at', v_guilty.committed_at) END,
            'next', 'SELECT * FROM threadline.audit_gaps;');
        RETURN v_result;
    END IF;
    v_result.verdict := v_verdict;
    v_result.detail := v_result.detail || jsonb_build_object('next', CASE v_verdict
        WHEN 'found' THEN format('SELECT threadline.incident_bundle(%L);', v_guilty.id)
        WHEN 'already_true' THEN format('Give an earlier good; the tables'' history begins at %s.',
                                        (SELECT to_json(max(t.since)) #>> '{}' FROM unnest(p_tables) t))
        ELSE 'Give a later bad, or look whether the predicate is true now.' END);
    IF v_verdict = 'found' THEN
        v_result.transaction_id := v_guilty.id;
        v_result.committed_at := v_guilty.committed_at;
        v_result.actor_ref := v_guilty.actor_ref;
    END IF;
    RETURN v_result;
END
$$;

-- No SET search_path: the predicate's names and what it calls mean what they mean to the caller.
CREATE FUNCTION threadline.incident_bisect(predicate text, good timestamptz, bad timestamptz, monotone boolean DEFAULT false)
RETURNS threadline.audit_bisect_row
LANGUAGE plpgsql
AS $$
DECLARE
    v_horizon constant bigint := threadline.commit_horizon(incident_bisect.good);
    v_end constant bigint := threadline.commit_horizon(incident_bisect.bad);
    -- Before this transaction writes anything itself.
    v_settled constant boolean := threadline.settled(incident_bisect.bad);
    v_monotone constant boolean := coalesce(incident_bisect.monotone, false);
    v_view regclass;
    v_named regclass[];
    v_present text[];
    v_tables threadline.bisect_table[];
    v_table threadline.bisect_table;
    v_loaded threadline.bisect_table[] := '{}';
    v_reasons jsonb;
    v_progress threadline.bisect_progress;
    v_result threadline.audit_bisect_row;
BEGIN
    PERFORM threadline.bisect_begin(incident_bisect.predicate, incident_bisect.good, incident_bisect.bad);
    PERFORM threadline.require_temporary_first();
    v_view := threadline.bisect_view('threadline_bisect_named', incident_bisect.predicate);
    v_named := ARRAY(SELECT n.relation FROM threadline.bisect_named(v_view) n ORDER BY n.relation);
    PERFORM threadline.bisect_refuse_qualified(ARRAY(SELECT n.relation FROM threadline.bisect_named(v_view) n WHERE NOT n.is_visible));
    v_tables := threadline.bisect_tables(v_named, v_horizon);
    v_present := threadline.bisect_present(v_named, v_tables);
    v_reasons := threadline.bisect_reasons(v_tables, v_end, incident_bisect.bad);
    IF NOT v_settled THEN
        v_reasons := pg_catalog.jsonb_build_object('every table', ARRAY['transactions still in flight at bad']) || v_reasons;
    END IF;
    -- Where the state at good is not known there is nothing to begin with.
    IF NOT EXISTS (SELECT FROM pg_catalog.unnest(v_tables) t
                   WHERE t.first_change_id IS NULL OR t.purged OR threadline.bisect_key_changed(t, v_end)) THEN
        PERFORM threadline.bisect_window(incident_bisect.good, incident_bisect.bad, v_horizon, v_end);
        FOREACH v_table IN ARRAY v_tables LOOP
            v_loaded := v_loaded || threadline.bisect_load(v_table, v_horizon);
        END LOOP;
        PERFORM threadline.bisect_steps(v_loaded);
        PERFORM threadline.forget_plans();
        v_view := threadline.bisect_view('threadline_bisect_predicate', incident_bisect.predicate);
        -- What now is not found by its name was not named by it alone.
        PERFORM threadline.bisect_refuse_qualified(ARRAY(SELECT n.relation FROM threadline.bisect_named(v_view) n));
        IF v_monotone THEN
            v_progress := threadline.bisect_binary(v_loaded);
        ELSE
            v_progress := threadline.bisect_forward(v_loaded);
        END IF;
    END IF;
    v_result := threadline.bisect_result(v_tables, v_present, v_reasons, v_monotone, v_progress);
    DROP TABLE pg_temp.threadline_bisect_transaction;
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION threadline.incident_bisect(text, timestamptz, timestamptz, boolean) IS
'The first transaction that committed after good and not after bad and after which a predicate over captured tables is true, as one audit_bisect_row. predicate: a boolean SQL expression, or a query that gives one boolean: EXISTS (SELECT FROM accounts WHERE balance < 0). Its tables'' names, written without a schema, mean their past; it is evaluated with the caller''s rights and may not write. By default the tables are built once as of good, each transaction''s changes are applied in commit order, and the predicate is evaluated after each transaction that touched one of them: what is found is the first, whatever came later. monotone => true promises that once true it stays true, and needs about log2 of the transactions as many evaluations; where the promise is wrong, what is found is one of the transactions after which the predicate became true.
Verdicts: found; never_true; already_true (at good); unknown (the tables'' history in the window has gaps or does not reach back to good, or transactions were still in flight at bad): see detail. NULL counts as false. Tables without a readable past are read as they are now and named in detail, or refused under threadline.uncaptured = refuse; so is what functions called by the predicate read from tables that it does not name itself. Needs temporary tables: disk for the tables as of good and for their changes in the window.
Errors: 22023 times in the wrong order, NULL or in the future; 42601 not one expression or query; 42804 not boolean; 42704 no table under capture named; 42501 no right to a table''s history or to temporary tables; 0A000 a volatile function, a view, a table named with its schema or with children by inheritance; 55000 the session is in the past, or pg_temp is not first on search_path; 25006 in a READ ONLY transaction or on a standby. A predicate that fails on some state fails the call with the same SQLSTATE, naming the transaction before it.';

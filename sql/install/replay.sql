-- Does the history, replayed, give the table? All under one snapshot, that of the caller's statement, so that concurrent writers and
-- the caller's own changes are on both sides or on neither.

-- How the images of each recorded version compare with today's. as_now, exact_now: SQL expressions over s.image and s.exact
-- that give them today's column names; skip: today's columns that cannot be compared; redacted: those of them that
-- redaction hides; retyped: columns whose type is another now, or has other labels or attributes. Versions that compare as
-- they are do not appear.
CREATE FUNCTION threadline.image_comparison(p_table_id integer, p_relation regclass)
RETURNS TABLE (version integer, as_now text, exact_now text, skip text[], redacted text[], retyped text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH hidden AS (
        SELECT coalesce(array_agg(h.name::text), '{}') AS names
        FROM threadline.readable_table t
        CROSS JOIN LATERAL unnest(t.exclude::text[] || t.mask) AS h (name)
        WHERE t.table_id = image_comparison.p_table_id
    ), present AS (
        SELECT a.attname::text AS name
        FROM pg_attribute a
        WHERE a.attrelid = image_comparison.p_relation AND a.attnum > 0 AND NOT a.attisdropped
    ), past AS (
        SELECT f.version,
               array_agg(f.name_now) FILTER (WHERE f.name_now IS NOT NULL AND NOT f.is_hidden) AS comparable,
               array_agg(f.name_now ORDER BY f.name_now) FILTER (WHERE f.name_now IS NOT NULL AND f.is_hidden) AS redacted,
               array_agg(f.name_now ORDER BY f.name_now) FILTER (WHERE (f.type_now <> f.type_then OR f.redefined) AND NOT f.is_hidden) AS retyped
        FROM (SELECT c.*, c.redact IS NOT NULL OR c.masked_otherwise OR coalesce(c.name_now = ANY (h.names), false) AS is_hidden
              FROM threadline.column_fate(image_comparison.p_table_id, image_comparison.p_relation) c
              CROSS JOIN hidden h) f
        GROUP BY f.version
    )
    SELECT p.version, coalesce(n.image, 's.image'), coalesce(n.exact, 's.exact'), s.skip, coalesce(p.redacted, '{}'), coalesce(p.retyped, '{}')
    FROM past p
    CROSS JOIN hidden h
    LEFT JOIN threadline.version_as_now(image_comparison.p_table_id, image_comparison.p_relation, h.names, true) n ON n.version = p.version
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(n.name ORDER BY n.name), '{}') AS skip
        FROM present n
        WHERE n.name <> ALL (coalesce(p.comparable, '{}'))
    ) s
    WHERE n.version IS NOT NULL OR cardinality(s.skip) > 0 OR p.retyped IS NOT NULL;
END;

-- The exact texts but those of columns that are not compared.
CREATE FUNCTION threadline.exact_without(exact jsonb, names text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN nullif(exact_without.exact OPERATOR(pg_catalog.-) exact_without.names, '{}');

-- A state of a row for people: where exact texts differ they stand in for what the image says.
CREATE FUNCTION threadline.shown_state(image jsonb, exact jsonb, other_exact jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN shown_state.exact IS NULL OR shown_state.image IS NULL OR shown_state.exact::text = shown_state.other_exact::text
            THEN shown_state.image
            ELSE shown_state.image OPERATOR(pg_catalog.||) shown_state.exact END;

-- The check of one table, as a statement with parameters $1 table_id, $2 first change, $3 whether every row since then
-- was recorded, so that one that was not is a violation. Two things are compared: each change's row before it with what
-- the change before it left (entry, chained, break), and the last of each row with the table (live, compared, verdict).
-- A change of key is two entries: the row leaves one key and arrives at the other. A mark (storage.sql) ends every row. s is a replayed image with its
-- version; l the live row's. p_of_keys: only of the keys $4.
CREATE FUNCTION threadline.comparison_statement(p_table_id integer, p_relation regclass, p_skip_retyped boolean, p_of_keys boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_replayed text;
    v_replayed_exact text;
    v_live text;
    v_live_exact text;
BEGIN
    -- What is typed otherwise now is made a row of now first.
    SELECT 'CASE s.schema_version '
           || string_agg(format('WHEN %s THEN ', v.version)
                         || CASE WHEN v.typed IS NOT NULL THEN format('threadline.row_image(%s) - %L::text[]', v.typed, v.skip)
                                 ELSE format('%s - %L::text[]', v.as_now, v.retyped) END, ' ' ORDER BY v.version)
           || ' ELSE s.image END',
           'CASE s.schema_version '
           || string_agg(format('WHEN %s THEN ', v.version)
                         || CASE WHEN v.typed IS NOT NULL THEN format('threadline.exact_without(threadline.row_exact(%s), %L)', v.typed, v.skip)
                                 ELSE format('threadline.exact_without(%s, %L)', v.exact_now, v.retyped) END, ' ' ORDER BY v.version)
           || ' ELSE s.exact END',
           'CASE s.schema_version '
           || string_agg(format('WHEN %s THEN l.image - %L::text[]', v.version, v.skip || v.left_out), ' ' ORDER BY v.version)
           || ' ELSE l.image END',
           'CASE s.schema_version '
           || string_agg(format('WHEN %s THEN threadline.exact_without(l.exact, %L)', v.version, v.skip || v.left_out), ' ' ORDER BY v.version)
           || ' ELSE l.exact END'
    INTO v_replayed, v_replayed_exact, v_live, v_live_exact
    FROM (
        SELECT c.*, CASE WHEN p_skip_retyped THEN c.retyped ELSE '{}' END AS left_out,
               CASE WHEN cardinality(c.retyped) > 0 AND NOT p_skip_retyped
                    THEN format('(SELECT ROW(%s)::%s FROM (SELECT %s AS image, %s AS exact OFFSET 0) n CROSS JOIN LATERAL %s r)',
                                threadline.typed_columns(p_relation, 'n.exact'), p_relation, c.as_now, c.exact_now,
                                threadline.typed_row(p_relation, 'n.image', 'n.exact')) END AS typed
        FROM threadline.image_comparison(p_table_id, p_relation) c
    ) v;
    RETURN format($statement$
        WITH mark AS (
            SELECT m.id, CASE WHEN x.id IS NULL THEN m.id ELSE coalesce(x.commit_no, 9223372036854775807) END AS commit_order, m.statement_no
            FROM threadline.readable_mark m
            LEFT JOIN threadline.readable_transaction x ON x.id = m.transaction_id
            WHERE m.table_id = $1 AND m.id >= $2
        ), entry AS (
            SELECT e.row_key, e.key, e.op, c.id, c.transaction_id, c.statement_no, c.schema_version, e.before, e.before_exact, e.image, e.exact,
                   CASE WHEN x.id IS NULL THEN c.id ELSE coalesce(x.commit_no, 9223372036854775807) END AS commit_order
            FROM threadline.readable_change c
            LEFT JOIN threadline.readable_transaction x ON x.id = c.transaction_id
            CROSS JOIN LATERAL (
                SELECT c.row_key, c.key, c.op,
                       CASE WHEN c.op IN (0, 1) THEN c.old_image
                            WHEN c.op = 5 AND c.old_key IS NULL THEN c.new_image || coalesce(c.old_image, '{}') END,
                       CASE WHEN c.op IN (0, 1) THEN c.old_exact
                            WHEN c.op = 5 AND c.old_key IS NULL THEN threadline.replace_exact(c.new_exact, c.old_image, c.old_exact) END,
                       c.new_image, c.new_exact
                UNION ALL
                SELECT NULL, c.old_key, 2, c.new_image || coalesce(c.old_image, '{}'),
                       threadline.replace_exact(c.new_exact, c.old_image, c.old_exact), NULL, NULL
                WHERE c.old_key IS NOT NULL
            ) AS e (row_key, key, op, before, before_exact, image, exact)
            WHERE c.table_id = $1 AND c.id >= $2 AND c.op <> 2 AND (c.op <> 0 OR c.old_image IS NOT NULL)%7$s
        ), dated AS (
            SELECT e.*, (SELECT count(*) FROM mark m WHERE (m.commit_order, m.statement_no) <= (e.commit_order, e.statement_no)) AS marks_before
            FROM entry e
        ), chained AS (
            SELECT e.*, lag(e.id) OVER w AS previous_id, lag(e.row_key) OVER w AS previous_row_key,
                   CASE WHEN lag(e.marks_before) OVER w = e.marks_before THEN lag(e.image) OVER w END AS previous_image,
                   CASE WHEN lag(e.marks_before) OVER w = e.marks_before THEN lag(e.exact) OVER w END AS previous_exact,
                   lag(e.schema_version) OVER w AS previous_version,
                   lead(e.id) OVER w IS NULL AS is_last,
                   e.op >= 3 AND e.marks_before = (SELECT count(*) FROM mark m) AS is_there
            FROM dated e
            WINDOW w AS (PARTITION BY e.key ORDER BY e.commit_order, e.statement_no, e.op, e.id)
        ), comparable_column AS (
            SELECT f.version, f.name_then, f.name_now, f.redefined, f.recipe
            FROM threadline.column_fate($1, %4$L) f
            WHERE f.name_now IS NOT NULL AND f.type_now = f.type_then AND f.redact IS NULL AND NOT f.masked_otherwise
        ), break AS (
            SELECT coalesce(s.row_key, s.previous_row_key) AS row_key, s.key, s.id, s.transaction_id, s.statement_no, s.commit_order,
                   CASE WHEN s.previous_version IS DISTINCT FROM s.schema_version AND s.previous_image IS NOT NULL AND s.before IS NOT NULL
                        THEN (SELECT jsonb_object_agg(p.name_now, threadline.shown_state(s.previous_image, s.previous_exact, s.before_exact) -> p.name_then) FROM comparable_column p
                              WHERE p.version = s.previous_version AND p.name_now IN (SELECT n.name_now FROM comparable_column n WHERE n.version = s.schema_version))
                        ELSE threadline.shown_state(s.previous_image, s.previous_exact, s.before_exact) END AS state_before,
                   CASE WHEN s.previous_version IS DISTINCT FROM s.schema_version AND s.previous_image IS NOT NULL AND s.before IS NOT NULL
                        THEN (SELECT jsonb_object_agg(n.name_now, threadline.shown_state(s.before, s.before_exact, s.previous_exact) -> n.name_then) FROM comparable_column n
                              WHERE n.version = s.schema_version AND n.name_now IN (SELECT p.name_now FROM comparable_column p WHERE p.version = s.previous_version))
                        ELSE threadline.shown_state(s.before, s.before_exact, s.previous_exact) END AS state_after
            FROM chained s
            WHERE s.op <> 3
              AND CASE WHEN s.previous_id IS NULL AND NOT $3 THEN false
                       WHEN s.previous_image IS NULL OR s.before IS NULL THEN s.previous_image IS DISTINCT FROM s.before
                       WHEN s.previous_version = s.schema_version THEN
                           NOT (record_image_eq(ROW(s.previous_image), ROW(s.before)) OR s.previous_image::text = s.before::text)
                           OR s.previous_exact::text IS DISTINCT FROM s.before_exact::text
                       ELSE EXISTS (
                           SELECT
                           FROM comparable_column p
                           JOIN comparable_column n ON n.name_now = p.name_now
                           WHERE p.version = s.previous_version AND n.version = s.schema_version
                             AND CASE WHEN p.redefined OR n.redefined
                                      THEN threadline.respell(coalesce(s.previous_exact ->> p.name_then, s.previous_image ->> p.name_then), p.recipe)
                                           IS DISTINCT FROM threadline.respell(coalesce(s.before_exact ->> n.name_then, s.before ->> n.name_then), n.recipe)
                                      ELSE (s.previous_image -> p.name_then)::text IS DISTINCT FROM (s.before -> n.name_then)::text
                                           OR s.previous_exact ->> p.name_then IS DISTINCT FROM s.before_exact ->> n.name_then END)
                  END
        ), live AS (
            SELECT k.row_key, k.key COLLATE "C" AS key, threadline.row_image(t.*) AS image, threadline.row_exact(t.*) AS exact
            FROM %1$s t
            CROSS JOIN LATERAL threadline.row_key(t.*) k%8$s
        ), compared AS (
            SELECT coalesce(l.row_key, s.row_key) AS row_key, coalesce(s.key, l.key) AS key,
                   s.op, s.id, s.transaction_id, s.statement_no, s.commit_order, s.schema_version,
                   s.is_there AS in_history, l.key IS NOT NULL AS in_table,
                   CASE WHEN s.is_there THEN %2$s END AS state_before,
                   CASE WHEN s.is_there THEN %5$s END AS exact_before,
                   CASE WHEN l.key IS NULL THEN NULL WHEN s.is_there THEN %3$s ELSE l.image END AS state_after,
                   CASE WHEN l.key IS NULL THEN NULL WHEN s.is_there THEN %6$s ELSE l.exact END AS exact_after
            FROM (SELECT * FROM chained WHERE is_last) s
            FULL JOIN live l ON l.key = s.key
        ), verdict AS (
            SELECT c.row_key, c.key, c.id, c.transaction_id, c.statement_no, c.commit_order,
                   threadline.shown_state(c.state_before, c.exact_before, c.exact_after) AS state_before,
                   threadline.shown_state(c.state_after, c.exact_after, c.exact_before) AS state_after,
                   CASE WHEN c.in_history AND NOT c.in_table THEN 'missing'
                        WHEN c.in_history THEN 'different'
                        WHEN c.id IS NULL AND NOT $3 THEN 'unrecorded'
                        ELSE 'extra' END AS kind
            FROM compared c
            WHERE NOT (c.in_table IS TRUE AND c.in_history IS TRUE
                       AND (record_image_eq(ROW(c.state_before), ROW(c.state_after)) OR c.state_before::text = c.state_after::text)
                       AND c.exact_before::text IS NOT DISTINCT FROM c.exact_after::text)
              AND (c.in_table OR c.in_history)
            UNION ALL
            SELECT b.*, 'discontinuous' FROM break b
        ), total AS (
            SELECT count(*) FILTER (WHERE v.kind <> 'unrecorded') AS violations,
                   count(*) FILTER (WHERE v.kind = 'unrecorded') AS unrecorded
            FROM verdict v
        ), listed AS (
            SELECT v.*, row_number() OVER (ORDER BY v.commit_order NULLS LAST, v.statement_no, v.id, v.key, v.kind) AS no
            FROM verdict v
            WHERE v.kind <> 'unrecorded'
            ORDER BY no
            LIMIT 1000
        ), event AS (
            SELECT count(*) FILTER (WHERE s.op <> 2) + (SELECT count(*) FROM mark) AS changes, count(DISTINCT s.transaction_id) AS transactions,
                   array_agg(DISTINCT s.schema_version) AS versions,
                   count(*) FILTER (WHERE s.is_last AND s.is_there) AS replayed_rows
            FROM chained s
        )
        SELECT event.changes, event.transactions, event.versions, total.violations, total.unrecorded, event.replayed_rows,
               (SELECT count(*) FROM live l) AS table_rows,
               (SELECT coalesce(jsonb_agg(threadline.violation_document($1, v.row_key, v.key, v.kind, v.id, v.transaction_id, v.state_before, v.state_after) ORDER BY v.no), '[]')
                FROM listed v) AS documents
        FROM event CROSS JOIN total
        $statement$,
        (SELECT CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END FROM pg_class c WHERE c.oid = p_relation) || p_relation,
        coalesce(v_replayed, 's.image'), coalesce(v_live, 'l.image'), p_relation::oid::text,
        coalesce(v_replayed_exact, 's.exact'), coalesce(v_live_exact, 'l.exact'),
        CASE WHEN p_of_keys THEN ' AND (c.key = ANY ($4) OR c.old_key = ANY ($4)) AND e.key = ANY ($4)' ELSE '' END,
        CASE WHEN p_of_keys THEN ' WHERE k.key COLLATE "C" = ANY ($4)' ELSE '' END);
END
$$;

CREATE FUNCTION threadline.violation_document(p_table_id integer, p_row_key bigint, p_key text, p_kind text, p_change_id bigint, p_transaction_id uuid, p_before jsonb, p_after jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table record;
    v_tx threadline.audit_transaction_row;
    v_events jsonb;
    v_diff jsonb;
    v_invariant constant text := CASE p_kind WHEN 'discontinuous' THEN 'history_is_continuous' ELSE 'history_equals_table' END;
BEGIN
    SELECT t.table_schema, t.table_name, threadline.key_object(t.key_columns, p_key) AS table_pk INTO v_table
    FROM threadline.readable_table t WHERE t.table_id = p_table_id;
    SELECT x.* INTO v_tx FROM threadline.audit_transactions x WHERE x.id = p_transaction_id;
    SELECT jsonb_agg(jsonb_build_object(
               'change_id', e.id, 'op', e.op_name, 'transaction_id', e.transaction_id, 'captured_at', e.captured_at,
               'changed_fields', e.changed_fields) ORDER BY e.commit_no NULLS LAST, e.statement_no, e.op, e.id)
    INTO v_events
    FROM (
        SELECT c.*, x.commit_no
        FROM threadline.row_page(p_table_id, ROW(p_row_key, p_key, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::threadline.row_tenure,
                                 '-infinity', 'infinity', NULL, 10) c
        LEFT JOIN LATERAL (SELECT x.commit_no FROM threadline.readable_transaction x WHERE x.id = c.transaction_id OFFSET 0) x ON true
        ORDER BY x.commit_no DESC NULLS FIRST, c.statement_no DESC, c.op DESC, c.id DESC
        LIMIT 10
    ) e;
    SELECT jsonb_agg(jsonb_build_object('name', d.name)
                     || CASE WHEN p_before ? d.name THEN jsonb_build_object('before', p_before -> d.name) ELSE '{}' END
                     || CASE WHEN p_after ? d.name THEN jsonb_build_object('after', p_after -> d.name) ELSE '{}' END
                     ORDER BY d.name COLLATE "C")
    INTO v_diff
    FROM (SELECT jsonb_object_keys(p_before) UNION SELECT jsonb_object_keys(p_after)) AS d (name)
    WHERE (p_before -> d.name)::text IS DISTINCT FROM (p_after -> d.name)::text;
    RETURN jsonb_build_object(
        'invariant', v_invariant,
        'kind', p_kind,
        'table_schema', v_table.table_schema,
        'table_name', v_table.table_name,
        'table_pk', v_table.table_pk,
        'failure_reason', CASE p_kind
            WHEN 'missing' THEN 'the history has this row, the table does not'
            WHEN 'different' THEN format('the table differs from the history in %s',
                (SELECT string_agg(d.value ->> 'name', ', ') FROM jsonb_array_elements(v_diff) AS d (value)))
            WHEN 'discontinuous' THEN CASE
                WHEN p_before IS NULL THEN 'the row that this change found was put there without being recorded'
                WHEN p_after IS NULL THEN 'the row was there before this change made it: it went away without being recorded'
                ELSE format('the row that this change found differs from what the change before it left in %s: it was changed without being recorded',
                    (SELECT string_agg(d.value ->> 'name', ', ') FROM jsonb_array_elements(v_diff) AS d (value))) END
            ELSE CASE WHEN p_change_id IS NULL THEN 'the table has this row, no change of it was ever recorded'
                      ELSE 'the table has this row, the history says it is gone' END
        END,
        'failure_step', NULL,
        'change_id', p_change_id,
        'event_at_failure', CASE WHEN p_change_id IS NOT NULL THEN
            (SELECT to_jsonb(c) FROM threadline.audit_changes c WHERE c.id = p_change_id) END,
        'state_before', p_before,
        'state_after', p_after,
        'state_diff', coalesce(v_diff, '[]'),
        'events_leading_to_failure', coalesce(v_events, '[]'),
        'transaction', CASE WHEN v_tx.id IS NOT NULL THEN jsonb_build_object(
            'id', v_tx.id, 'commit_no', v_tx.commit_no, 'committed_at', v_tx.committed_at, 'actor_ref', v_tx.actor_ref,
            'action_id', v_tx.action_id, 'correlation_id', v_tx.correlation_id, 'request_id', v_tx.request_id, 'job_id', v_tx.job_id) END,
        'gaps', (
            SELECT coalesce(jsonb_agg(jsonb_build_object('reason', g.reason, 'since_at', g.since_at, 'until_at', g.until_at) ORDER BY g.since_at, g.reason), '[]')
            FROM threadline.gaps_between(p_table_id, coalesce(v_tx.committed_at, '-infinity'), 'infinity') g),
        'first_repaired_at', NULL,
        'fingerprint', left(encode(sha256(convert_to(
            concat_ws('|', v_invariant, p_kind, v_table.table_schema, v_table.table_name, v_table.table_pk::text), 'UTF8')), 'hex'), 16));
END
$$;

CREATE FUNCTION threadline.replay_check(target regclass) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
SET jit = off SET intervalstyle = postgres SET lc_monetary = 'C' SET array_nulls = on SET xmloption = content
AS $$
DECLARE
    v_table record;
    v_base threadline.state_base;
    v_gaps jsonb;
    v_known boolean;
    v_skip_retyped boolean := false;
    v_sums record;
    v_found record;
    v_not_compared jsonb;
BEGIN
    SELECT t.* INTO v_table FROM threadline.readable_table t WHERE t.table_id = threadline.table_lookup(replay_check.target);
    IF NOT FOUND THEN
        PERFORM threadline.require_readable(NULL, replay_check.target);
    END IF;
    v_base := threadline.state_base(v_table.table_id, NULL);
    SELECT coalesce(jsonb_agg(jsonb_build_object('reason', g.reason, 'since_at', g.since_at, 'until_at', g.until_at, 'detail', g.detail)
                              ORDER BY g.since_at, g.reason), '[]')
    INTO v_gaps
    FROM threadline.gaps_between(v_table.table_id, coalesce(v_base.since, '-infinity'), 'infinity') g;
    v_known := v_base.first_change_id IS NOT NULL AND NOT v_base.purged;
    IF threadline.is_full_row(v_table.table_id) THEN
        IF threadline.shape_differs(v_table.table_id, v_table.relation, NULL) THEN
            -- No change was recorded in its new shape so far.
            v_gaps := v_gaps || '[{"reason": "shape_changed", "since_at": null, "until_at": null, "detail": null}]';
        END IF;
        EXECUTE threadline.counted_comparison_statement(v_table.relation)
        INTO STRICT v_found
        USING v_table.table_id, coalesce(v_base.first_change_id, 0), v_known, NOT v_gaps @> '[{"reason": "shape_changed"}]';
    ELSE
        SELECT s.* INTO STRICT v_sums FROM threadline.compared_sums(v_table.table_id, v_table.relation, coalesce(v_base.first_change_id, 0), v_known) s;
        IF v_sums.suspects = '{}' THEN
            SELECT v_sums.changes, v_sums.transactions, v_sums.versions, 0::bigint AS violations, v_sums.unrecorded, v_sums.replayed_rows, v_sums.table_rows, '[]'::jsonb AS documents
            INTO v_found;
        END IF;
    END IF;
    WHILE v_found IS NULL LOOP
        BEGIN
            EXECUTE threadline.comparison_statement(v_table.table_id, v_table.relation, v_skip_retyped, v_sums.suspects IS NOT NULL)
            INTO STRICT v_found
            USING v_table.table_id, coalesce(v_base.first_change_id, 0), v_known, v_sums.suspects;
            IF v_sums.suspects IS NOT NULL THEN
                SELECT v_sums.changes, v_sums.transactions, v_sums.versions, v_found.violations, v_sums.unrecorded, v_sums.replayed_rows, v_sums.table_rows, v_found.documents
                INTO v_found;
            END IF;
            EXIT;
        EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
            -- An old value may not convert to its column's type of today: then such columns are left out.
            IF v_skip_retyped THEN
                RAISE;
            END IF;
            v_skip_retyped := true;
        END;
    END LOOP;
    SELECT coalesce(jsonb_agg(DISTINCT n.name ORDER BY n.name), '[]') INTO v_not_compared
    FROM (
        SELECT unnest(v.redacted || CASE WHEN v_skip_retyped THEN v.retyped ELSE '{}' END) AS name
        FROM threadline.image_comparison(v_table.table_id, v_table.relation) v
        WHERE v.version = ANY (v_found.versions)
        UNION ALL
        SELECT unnest(v_table.exclude::text[] || v_table.mask)
    ) n;
    RETURN jsonb_build_object(
        'verdict', CASE WHEN v_found.violations > 0 THEN 'violated'
                        WHEN v_known AND v_gaps = '[]' THEN 'holds'
                        ELSE 'unknown' END,
        'what', format('%s.%s', v_table.table_schema, v_table.table_name),
        'events_processed', v_found.changes,
        'transactions', v_found.transactions,
        'final_state', jsonb_build_object('replayed_rows', v_found.replayed_rows, 'table_rows', v_found.table_rows),
        'projections', '{}'::jsonb,
        'skipped', CASE WHEN v_found.unrecorded > 0
                        THEN jsonb_build_object(CASE WHEN v_base.purged THEN 'purged' ELSE 'before_horizon' END, v_found.unrecorded)
                        ELSE '{}' END,
        'complete', v_known AND v_gaps = '[]',
        'coverage', jsonb_build_object('complete', v_known AND v_gaps = '[]', 'baseline_at', v_base.since, 'gaps', v_gaps),
        'not_compared', v_not_compared,
        'violations_total', v_found.violations,
        'violations', v_found.documents);
END
$$;

COMMENT ON FUNCTION threadline.replay_check(regclass) IS
    'Replays a table''s history from its newest baseline and compares it with the table, the caller''s own changes included. JSON: verdict (holds, violated, or unknown when nothing differs but history may be missing), events_processed, transactions, final_state, skipped (rows there was no record to compare with, by reason), complete, coverage, not_compared (redacted columns, and those whose old values do not convert), violations_total and violations: in commit order, 1000 at most, with both states and their difference: history_equals_table for each row that is missing, extra or different, with its last recorded change, and history_is_continuous for each change that did not find the row as the change before it had left it, so that a change in between was not recorded. failure_step is null. Columns that an image is too old to have are not compared for it. Of a table without a key it compares how often each row is there; after a change of its shape the verdict is unknown until the next baseline. Reads the whole table and the log of it, each row and change once; keeps some 100 bytes a row in memory, and looks closely at what does not come out, the whole table where that is more than 10000 rows. Errors: 42704 no history, 42501 no right to read it.';

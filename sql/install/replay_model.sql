-- Models of replay: projections (states that are folded out of events) and invariants. Tables are known by table_id, which
-- outlives renames and dumps.

CREATE TABLE threadline.replay_model (
    model       text        NOT NULL PRIMARY KEY,
    description text,
    defined_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    defined_by  name        NOT NULL DEFAULT session_user
);

CREATE TABLE threadline.replay_projection (
    model    text    NOT NULL REFERENCES threadline.replay_model ON DELETE CASCADE,
    name     text    NOT NULL,
    no       integer NOT NULL,
    table_id integer,                                  -- NULL: events from elsewhere
    key      text,
    init     jsonb,
    step     text    NOT NULL,
    mapping  text,
    PRIMARY KEY (model, name)
);

CREATE TABLE threadline.replay_invariant (
    model       text    NOT NULL REFERENCES threadline.replay_model ON DELETE CASCADE,
    name        text    NOT NULL,
    no          integer NOT NULL,
    kind        text    NOT NULL,
    spec        jsonb   NOT NULL,
    check_at    text    NOT NULL,
    severity    text    NOT NULL,
    table_id    integer,                               -- NULL: over a projection, or a query
    more_tables integer[]   NOT NULL DEFAULT '{}',     -- what a reference goes to; further tables of a balance
    projection  text,
    PRIMARY KEY (model, name)
);

-- An engine's state as it lies in memory. No text, no bytes and no cast make one: whoever may begin a run cannot forge what it goes on from.
CREATE TYPE threadline.saved_run;
CREATE FUNCTION threadline.saved_run_in(cstring) RETURNS threadline.saved_run LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'saved_run_in';
CREATE FUNCTION threadline.saved_run_out(threadline.saved_run) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'byteaout';
CREATE TYPE threadline.saved_run (INPUT = threadline.saved_run_in, OUTPUT = threadline.saved_run_out, INTERNALLENGTH = VARIABLE, STORAGE = external);

-- A run that the next one goes on from: everything up to a commit, with what was found by then. plan: all that what it came to depends on.
-- stopped: what a run comes to that stops on the first violation, where that was found.
CREATE TABLE threadline.replay_saved_run (
    model      text        NOT NULL PRIMARY KEY REFERENCES threadline.replay_model ON DELETE CASCADE,
    commit_no  bigint      NOT NULL,
    until_at   timestamptz NOT NULL,
    origin     bigint      NOT NULL,
    plan       jsonb       NOT NULL,
    table_ids  integer[]   NOT NULL,
    events     bigint      NOT NULL,
    state      threadline.saved_run NOT NULL,          -- to compress it takes longer than to read it
    stopped    jsonb,
    saved_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

SELECT pg_catalog.pg_extension_config_dump('threadline.replay_model', '');
SELECT pg_catalog.pg_extension_config_dump('threadline.replay_projection', '');
SELECT pg_catalog.pg_extension_config_dump('threadline.replay_invariant', '');

CREATE VIEW threadline.replay_models AS
SELECT m.model, m.description, m.defined_at, m.defined_by,
       (SELECT count(*) FROM threadline.replay_projection p WHERE p.model = m.model) AS projections,
       (SELECT count(*) FROM threadline.replay_invariant i WHERE i.model = m.model) AS invariants
FROM threadline.replay_model m;
COMMENT ON VIEW threadline.replay_models IS 'The models that replay_check() knows.';

CREATE VIEW threadline.replay_projections AS
SELECT p.model, p.name, p.no, t.relation AS source, p.table_id, p.key, p.init, p.step, p.mapping
FROM threadline.replay_projection p
LEFT JOIN threadline.readable_table t ON t.table_id = p.table_id;
COMMENT ON VIEW threadline.replay_projections IS 'The projections of each model, in order; source is NULL for events from elsewhere, and for a table that the reader may not read.';

CREATE VIEW threadline.replay_invariants AS
SELECT i.model, i.name, i.no, i.kind, i.spec, i.check_at, i.severity, i.table_id, i.more_tables, i.projection
FROM threadline.replay_invariant i;
COMMENT ON VIEW threadline.replay_invariants IS 'The invariants of each model, in order.';

CREATE FUNCTION threadline.query_findings(query text, OUT relations oid[], OUT is_volatile boolean)
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'query_findings';
COMMENT ON FUNCTION threadline.query_findings(text) IS 'Internal: the relations that a query reads, and whether it calls a volatile function.';

CREATE FUNCTION threadline.require_model(p_model text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM threadline.replay_models m WHERE m.model = p_model) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('there is no model named "%s"', p_model),
            HINT = format('SELECT model, description FROM threadline.replay_models; lists them. SELECT threadline.replay_define_model(%L); makes one.', p_model);
    END IF;
END
$$;

CREATE FUNCTION threadline.replay_define_model(model text, description text = NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(replay_define_model.model, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a model must have a name',
            HINT = 'SELECT threadline.replay_define_model(''orders'', ''what must be true of an order'');';
    END IF;
    INSERT INTO threadline.replay_model AS m (model, description)
    VALUES (replay_define_model.model, replay_define_model.description)
    ON CONFLICT ON CONSTRAINT replay_model_pkey
    DO UPDATE SET description = coalesce(replay_define_model.description, m.description);
END
$$;
COMMENT ON FUNCTION threadline.replay_define_model(text, text) IS
    'Makes a model: a name for projections and invariants that replay_check() goes through together. If it is there only its description is set. Error: 22023 no name.';

CREATE FUNCTION threadline.replay_drop_model(model text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM threadline.require_model(replay_drop_model.model);
    DELETE FROM threadline.replay_model m WHERE m.model = replay_drop_model.model;
END
$$;
COMMENT ON FUNCTION threadline.replay_drop_model(text) IS 'Removes a model with its projections, invariants, checkpoints, monitor and recorded failures. Error: 42704 there is none.';

-- What the definitions come to in the tables, by the owner's right; the callers have looked at them. A definition of the same name is
-- replaced, and what was verified with the old one is forgotten.
CREATE FUNCTION threadline.store_projection(p_model text, p_name text, p_table_id integer, p_key text, p_init jsonb, p_step text, p_mapping text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_follows boolean;
BEGIN
    PERFORM threadline.require_model(p_model);
    v_follows := threadline.monitor_follows(p_model);
    INSERT INTO threadline.replay_projection (model, name, no, table_id, key, init, step, mapping)
    VALUES (p_model, p_name, (SELECT coalesce(max(p.no), 0) + 1 FROM threadline.replay_projection p WHERE p.model = p_model), p_table_id, p_key, p_init, p_step, p_mapping)
    ON CONFLICT (model, name)
    DO UPDATE SET table_id = excluded.table_id, key = excluded.key, init = excluded.init, step = excluded.step, mapping = excluded.mapping;
    DELETE FROM threadline.replay_saved_run s WHERE s.model = p_model;
    PERFORM threadline.monitor_follow(p_model, v_follows);
END
$$;

CREATE FUNCTION threadline.store_invariant(p_model text, p_name text, p_kind text, p_spec jsonb, p_check_at text, p_severity text, p_table_id integer, p_more_tables integer[], p_projection text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_follows boolean;
BEGIN
    PERFORM threadline.require_model(p_model);
    v_follows := threadline.monitor_follows(p_model);
    INSERT INTO threadline.replay_invariant (model, name, no, kind, spec, check_at, severity, table_id, more_tables, projection)
    VALUES (p_model, p_name, (SELECT coalesce(max(i.no), 0) + 1 FROM threadline.replay_invariant i WHERE i.model = p_model), p_kind, p_spec, p_check_at, p_severity, p_table_id, p_more_tables, p_projection)
    ON CONFLICT (model, name)
    DO UPDATE SET kind = excluded.kind, spec = excluded.spec, check_at = excluded.check_at, severity = excluded.severity,
                  table_id = excluded.table_id, more_tables = excluded.more_tables, projection = excluded.projection;
    DELETE FROM threadline.replay_saved_run s WHERE s.model = p_model;
    PERFORM threadline.monitor_follow(p_model, v_follows);
END
$$;

-- A captured table by name, for a model.
CREATE FUNCTION threadline.model_table(p_relation regclass) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table_id integer;
BEGIN
    BEGIN
        v_table_id := threadline.table_lookup(p_relation);
    EXCEPTION WHEN undefined_object THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = SQLERRM,
            HINT = format('SELECT threadline.audit_enable(%L); captures it from now on, beginning with the rows that it has.', p_relation);
    END;
    PERFORM FROM threadline.readable_table t WHERE t.table_id = v_table_id;
    IF NOT FOUND THEN
        PERFORM threadline.require_readable(NULL, p_relation);
    END IF;
    IF threadline.is_full_row(v_table_id) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = format('table "%s" has no key, so its rows cannot be followed by a model', p_relation),
            DETAIL = 'Identical rows are one in its history.',
            HINT = format('ALTER TABLE %s ADD PRIMARY KEY (…); SELECT threadline.audit_enable(%L);', p_relation, p_relation);
    END IF;
    RETURN v_table_id;
END
$$;

-- The query that an expression of a model stands in when it is tried: p_from gives what it may name. Errors in it are the
-- caller's to see. It may read no table, which would show the present, and must tell the same each time.
CREATE FUNCTION threadline.try_expression(p_what text, p_expression text, p_type text, p_from text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    -- On a line of its own, for it may end in a comment.
    v_query constant text := pg_catalog.format(E'SELECT (%s\n)%s FROM %s LIMIT 0', p_expression, '::' || p_type, p_from);
    v_findings record;
BEGIN
    PERFORM threadline.try_query(v_query);
    v_findings := threadline.query_findings(v_query);
    IF v_findings.is_volatile THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('%s calls a volatile function', p_what),
            DETAIL = p_expression,
            HINT = 'A replay must come out the same each time: declare a function that only computes IMMUTABLE or STABLE.';
    END IF;
    IF pg_catalog.cardinality(v_findings.relations) > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = pg_catalog.format('%s reads table %s, which would show the present', p_what, v_findings.relations[1]::pg_catalog.regclass),
            DETAIL = p_expression,
            HINT = 'Use an invariant of kind references or query, which see the tables as they were.';
    END IF;
END
$$;

-- Runs one query of a caller's that gives no row. A cursor takes one query, and nothing that writes.
CREATE FUNCTION threadline.try_query(p_query text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_cursor refcursor;
BEGIN
    OPEN v_cursor FOR EXECUTE p_query;
    MOVE NEXT FROM v_cursor;
    CLOSE v_cursor;
END
$$;

-- What stands for a table's rows when an expression is tried: a row of NULLs, typed.
CREATE FUNCTION threadline.typed_nulls(p_relation regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN format('(SELECT (NULL::%s).*)', p_relation);

CREATE FUNCTION threadline.replay_add_projection(model text, name text, source regclass, key text, init jsonb, step text, mapping text = NULL) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    v_table_id integer;
    v_step text;
    v_mapping text;
BEGIN
    PERFORM threadline.require_model(replay_add_projection.model);
    IF replay_add_projection.step IS NULL OR coalesce(replay_add_projection.name, '') = '' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('a projection of model "%s" needs a name and a step', replay_add_projection.model),
            HINT = 'SELECT threadline.replay_add_projection(''m'', ''total'', ''payments'', NULL, ''0'', ''to_jsonb(state::numeric + (event #>> ''''{new,amount}'''')::numeric)'');';
    END IF;
    IF replay_add_projection.source IS NOT NULL THEN
        v_table_id := threadline.model_table(replay_add_projection.source);
    END IF;
    IF replay_add_projection.mapping IS NOT NULL THEN
        v_mapping := coalesce(threadline.function_name(replay_add_projection.mapping, 'jsonb'), replay_add_projection.mapping);
        PERFORM threadline.try_expression('the mapping of projection ' || replay_add_projection.name, pg_catalog.format('SELECT m FROM %s(event) AS m LIMIT 1', v_mapping), 'jsonb', '(SELECT NULL::jsonb AS event) e');
    END IF;
    IF replay_add_projection.key IS NOT NULL THEN
        PERFORM threadline.try_expression('the key of projection ' || replay_add_projection.name, replay_add_projection.key, 'text', '(SELECT NULL::jsonb AS event) e');
    END IF;
    -- By its whole name, for whoever replays may have another search_path.
    v_step := coalesce(threadline.function_name(replay_add_projection.step, 'jsonb, jsonb'), replay_add_projection.step);
    PERFORM threadline.try_expression('the step of projection ' || replay_add_projection.name, threadline.step_expression(v_step), 'jsonb',
                                      '(SELECT NULL::jsonb AS state, NULL::jsonb AS event) e');
    PERFORM threadline.store_projection(replay_add_projection.model, replay_add_projection.name, v_table_id, replay_add_projection.key,
                                        replay_add_projection.init, v_step, v_mapping);
END
$$;
COMMENT ON FUNCTION threadline.replay_add_projection(text, text, regclass, text, jsonb, text, text) IS
$$Adds a projection to a model, or replaces the one of that name: a state for each key, made of events one after another.
source: a table under capture, whose changes are the events: {"change_id", "transaction_id", "committed_at", "actor_ref", "table", "table_pk", "op", "changed_fields", "old", "new"}; NULL: the events that replay_check(…, events => …) is given. key: SQL over event (jsonb) that gives the key, NULL for one state; an event whose key is NULL is skipped. init: the state that a key begins with. step: SQL over state and event (jsonb) that gives the next state, or the name of a function (state jsonb, event jsonb) returning jsonb; NULL ends the key. mapping: the name of a function (change jsonb) returning jsonb or a set of it: what the projection gets in place of the event, none, one or many; {"skip": "reason"} skips it for that reason.
Functions must not be volatile, and read no table. Where one raises an error, that is a violation of its own and the state stays. Errors: 42704 no such model, or the table was never under capture, 22023 name or step missing, 0A000 volatile or reads a table; what is wrong with an expression is the server's own error.$$;

-- The qualified name of a function that the caller sees under a name; NULL where it is no such name.
CREATE FUNCTION threadline.function_name(p_name text, p_arguments text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (SELECT pg_catalog.format('%I.%I', n.nspname, p.proname)
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE p_name ~ '^\s*("[^"]+"|[\w$]+)(\s*\.\s*("[^"]+"|[\w$]+))?\s*$' AND p.oid = pg_catalog.to_regprocedure(pg_catalog.format('%s(%s)', p_name, p_arguments)));
END
$$;

-- The name of a function, or an expression.
CREATE FUNCTION threadline.step_expression(p_step text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF threadline.function_name(p_step, 'jsonb, jsonb') IS NOT NULL THEN
        RETURN pg_catalog.format('%s(state, event)', p_step);
    END IF;
    RETURN p_step;
END
$$;

-- Who acts and why. Applications say it inside their transaction, capture reads it at commit. Every setting
-- is transaction-local, so a pooled connection never carries one client's identity into another's work.

CREATE FUNCTION threadline.set_actor(type text, id text DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known CONSTANT text[] := ARRAY['user', 'admin', 'service_account', 'job', 'system', 'anonymous'];
    actor jsonb := jsonb_build_object('type', set_actor.type);
BEGIN
    IF set_actor.type IS NULL OR set_actor.type <> ALL (known) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown actor type %s', coalesce('"' || set_actor.type || '"', 'NULL')),
            DETAIL = format('Known types: %s.', array_to_string(known, ', ')),
            HINT = 'For example: SELECT threadline.set_actor(''user'', ''42'');';
    END IF;
    IF set_actor.type <> 'anonymous' THEN
        IF coalesce(set_actor.id, '') = '' THEN
            RAISE EXCEPTION USING
                ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('actor type "%s" needs an id', set_actor.type),
                DETAIL = 'Only the anonymous actor has none.',
                HINT = format('SELECT threadline.set_actor(%L, ''42'');', set_actor.type);
        END IF;
        actor := actor || jsonb_build_object('id', set_actor.id);
    END IF;
    PERFORM set_config('threadline.actor_ref', actor::text, true);
    RETURN actor;
END
$$;

COMMENT ON FUNCTION threadline.set_actor(text, text) IS
    'Says who acts, until the end of the transaction; the last call before commit wins. type: user, admin, service_account, job, system or anonymous (whose id is ignored). Returns the actor as recorded, {"type": …, "id": …}. Errors: 22023 unknown type, missing id.';

-- So that an integer needs no cast; an untyped literal finds the text form.
CREATE FUNCTION threadline.set_actor(type text, id bigint)
RETURNS jsonb
LANGUAGE sql
AS $$ SELECT threadline.set_actor(set_actor.type, set_actor.id::pg_catalog.text) $$;

COMMENT ON FUNCTION threadline.set_actor(text, bigint) IS
    'The same for an integer id, which is recorded as text. Errors: 22023 unknown type, missing id.';

-- A context somebody set to something else than a JSON object is kept, not refused: capture stores it the same way.
CREATE FUNCTION threadline.get_context()
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    raw     CONSTANT text := coalesce(current_setting('threadline.context', true), '');
    context jsonb;
BEGIN
    IF raw = '' THEN
        RETURN '{}';
    END IF;
    BEGIN
        context := raw::jsonb;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        context := NULL;
    END;
    IF context IS NULL OR jsonb_typeof(context) <> 'object' THEN
        context := jsonb_build_object('invalid_context', raw);
    END IF;
    RETURN context;
END
$$;

COMMENT ON FUNCTION threadline.get_context() IS
    'The context the transaction would record now: a JSON object, {} when nothing is set. A setting threadline.context that is no JSON object is returned as {"invalid_context": "<its text>"}. Raises no error.';

CREATE FUNCTION threadline.put_context(entries jsonb)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    context jsonb;
BEGIN
    IF put_context.entries IS NULL OR jsonb_typeof(put_context.entries) <> 'object' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('context must be a JSON object, not %s', coalesce(jsonb_typeof(put_context.entries), 'NULL')),
            HINT = 'SELECT threadline.put_context(''{"tenant": "acme"}'');';
    END IF;
    context := threadline.get_context() || put_context.entries;
    PERFORM set_config('threadline.context', context::text, true);
    RETURN context;
END
$$;

COMMENT ON FUNCTION threadline.put_context(jsonb) IS
    'Merges a JSON object into the transaction''s context (a key given again replaces its value) and returns the result. Lasts until the end of the transaction and is recorded at commit. Errors: 22023 when the argument is not a JSON object; a malformed earlier setting is kept under invalid_context.';

-- Runs with the owner's rights: callers hold none on action_log.
CREATE FUNCTION threadline.record_action(
    name           text,
    status         text DEFAULT 'ok',
    verb           text DEFAULT NULL,
    category       text DEFAULT NULL,
    reason         text DEFAULT NULL,
    comment        text DEFAULT NULL,
    correlation_id text DEFAULT NULL,
    request_id     text DEFAULT NULL,
    job_id         text DEFAULT NULL
)
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    action_id CONSTANT uuid := gen_random_uuid();
    actor jsonb;
BEGIN
    IF coalesce(btrim(record_action.name), '') = '' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'an action needs a name',
            HINT = 'SELECT threadline.record_action(''invoice.post'');';
    END IF;
    IF record_action.status IS NULL OR record_action.status NOT IN ('ok', 'error') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('action "%s" has status %s', record_action.name, coalesce('"' || record_action.status || '"', 'NULL')),
            DETAIL = 'The status is ok or error.',
            HINT = format('SELECT threadline.record_action(%L, status => ''error'', reason => ''…'');', record_action.name);
    END IF;
    BEGIN
        actor := nullif(current_setting('threadline.actor_ref', true), '')::jsonb;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        actor := NULL;
    END;
    INSERT INTO threadline.action_log (id, transaction_id, inserted_at, name, status, verb, category, reason, comment,
                                       actor_ref, correlation_id, request_id, job_id)
    VALUES (action_id, threadline.current_audit_transaction_id(), clock_timestamp(),
            record_action.name, record_action.status, record_action.verb, record_action.category,
            record_action.reason, record_action.comment, actor,
            coalesce(record_action.correlation_id, nullif(current_setting('threadline.correlation_id', true), '')),
            coalesce(record_action.request_id, nullif(current_setting('threadline.request_id', true), '')),
            coalesce(record_action.job_id, nullif(current_setting('threadline.job_id', true), '')));
    PERFORM threadline.note_action(action_id);
    RETURN action_id;
END
$$;

COMMENT ON FUNCTION threadline.record_action(text, text, text, text, text, text, text, text, text) IS
    'Records why the transaction does what it does, before or after its writes, as often as needed; the last one is audit_transactions.action_id. By convention name is category.verb; status is ok or error. The actor is the one set when this is called; correlation_id, request_id and job_id default to the settings threadline.correlation_id, .request_id and .job_id. Returns the action''s id. Errors: 22023 no name, unknown status; 25006 in a READ ONLY transaction.';

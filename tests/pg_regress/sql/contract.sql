-- The public face: what people call and query may not change by accident.
SELECT p.proname || '(' || pg_get_function_arguments(p.oid) || ') -> ' || coalesce(pg_get_function_result(p.oid), 'procedure') AS signature
FROM pg_proc p JOIN threadline.access_list() a ON a.name = p.proname AND a.kind = 'routine'
WHERE p.pronamespace = 'threadline'::regnamespace
  AND p.proname ~ '^(audit_|replay_|incident_|change_|actor_|record_action|set_actor|put_context|get_context|current_audit|time_)'
ORDER BY p.proname COLLATE "C", pg_get_function_arguments(p.oid) COLLATE "C";
SELECT c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'threadline'::regnamespace AND c.relkind = 'v' AND c.relname LIKE 'audit\_%'
GROUP BY c.relname ORDER BY c.relname COLLATE "C";
-- Every function that people call says what it does.
SELECT p.oid::regprocedure FROM pg_proc p JOIN threadline.access_list() a ON a.name = p.proname
WHERE p.pronamespace = 'threadline'::regnamespace AND p.proname ~ '^(audit_|replay_|incident_|change_|actor_|record_action|set_actor|put_context|get_context|current_audit|time_)'
  AND obj_description(p.oid, 'pg_proc') IS NULL;
-- Nothing stands outside the schema, and everything in it belongs to the extension.
SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
WHERE e.extname = 'threadline_forensics'
  AND pg_describe_object(d.classid, d.objid, d.objsubid) !~ '(threadline\.|schema threadline| threadline_)'
ORDER BY 1;

-- A native trigger that does nothing: what the server itself asks for calling any. An AFTER trigger's result is ignored, and must be
-- a null pointer that is not NULL, which is what false is to a function of the server's own.
CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE internal AS 'pg_is_in_recovery';
SELECT format('CREATE TRIGGER nothing AFTER INSERT OR UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION nothing()', c.relname)
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
\gexec

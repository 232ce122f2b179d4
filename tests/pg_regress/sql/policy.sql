-- Redaction: no image ever holds what the policy hides.
SET search_path = policy, threadline;
CREATE SCHEMA policy;
CREATE TABLE person (id int PRIMARY KEY, name text, ssn text, photo bytea);
INSERT INTO person VALUES (1, 'Ann', 'secret-1', '\x01');
SELECT audit_enable('person', exclude => '{photo}', mask => '{ssn}');
UPDATE person SET ssn = 'secret-2', photo = '\x02', name = 'Anna';
UPDATE person SET photo = '\x03';
-- A rerun keeps what is set; a rename does not uncover.
SELECT audit_enable('person');
ALTER TABLE person RENAME ssn TO ssn_old;
ALTER TABLE person ADD ssn text;
UPDATE person SET ssn_old = 'secret-3', ssn = 'secret-4';
DELETE FROM person;
SELECT op, changed_fields, changed_from, data_after FROM audit_changes WHERE table_schema = 'policy' ORDER BY id;
SELECT count(*) FROM change_log c WHERE c::text LIKE '%secret%';
SELECT version, columns FROM audit_schema_versions WHERE table_schema = 'policy' ORDER BY version;

-- What cannot be meant is refused, with what to type instead.
\set SHOW_CONTEXT never
CREATE TABLE argued (id int PRIMARY KEY, v text);
SELECT threadline.audit_enable('argued');
INSERT INTO argued VALUES (1, 'new');
CREATE TABLE not_captured (id int);
SELECT * FROM threadline.audit_timeline('not_captured');
SELECT * FROM threadline.audit_timeline(op => 'upsert');
SELECT * FROM threadline.audit_timeline(match => '"new"');
SELECT * FROM threadline.audit_timeline(max_rows => -1);
SELECT * FROM threadline.audit_timeline(before_change => 1);
SELECT * FROM threadline.audit_export('xml');
SELECT * FROM threadline.audit_export(NULL);
SELECT * FROM threadline.audit_export('csv', max_rows => -1);
SELECT * FROM threadline.audit_diff('argued', NULL, 'infinity');
SELECT * FROM threadline.audit_diff('argued', 'infinity', '-infinity');
SELECT * FROM threadline.audit_diff('argued', '-infinity', 'infinity');
SELECT threadline.incident_bundle_for();
SELECT threadline.change_diff(min(id), format => 'v2') FROM threadline.audit_changes;
-- Where there is nothing, nothing is the answer.
SELECT op, table_pk FROM threadline.audit_timeline('argued');
SELECT * FROM threadline.audit_diff('argued', 'infinity', 'infinity');
SELECT threadline.audit_export('csv', 'argued', until => '-infinity');
SELECT threadline.audit_export('json', 'argued', until => '-infinity');
SELECT jsonb_pretty(threadline.incident_bundle_for(job_id => 'none') - 'coverage');
DROP TABLE argued, not_captured;

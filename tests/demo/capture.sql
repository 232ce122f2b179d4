CREATE EXTENSION threadline_forensics;
SELECT threadline.audit_enable('pgbench_branches');
SELECT threadline.audit_enable('pgbench_tellers');
SELECT threadline.audit_enable('pgbench_accounts');
SELECT threadline.audit_enable('pgbench_history');
SELECT table_name, state, since, baseline_at, complete FROM threadline.audit_status() ORDER BY table_name;

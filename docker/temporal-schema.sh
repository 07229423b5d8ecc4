# Creates or upgrades Temporal's tables. Safe to run again: setup-schema skips what is newer, update-schema continues
# from the version it finds. Connection and password come from the SQL_* environment.
set -eu
for pair in temporal:temporal temporal_visibility:visibility; do
  database=${pair%%:*}
  directory=/etc/temporal/schema/postgresql/v12/${pair##*:}/versioned
  temporal-sql-tool --db "$database" setup-schema -v 0.0
  temporal-sql-tool --db "$database" update-schema -d "$directory"
done

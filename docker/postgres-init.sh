# Runs once, when the data volume is empty: all databases exist before anything connects, so the Temporal schema tool
# never has to issue its CREATE DATABASE, which fails on a second run.
psql --set ON_ERROR_STOP=1 --set password="$RINDLE_DB_PASSWORD" --username "$POSTGRES_USER" --dbname postgres <<'SQL'
SELECT 'CREATE DATABASE temporal' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'temporal') \gexec
CREATE DATABASE temporal_visibility;
CREATE ROLE rindle LOGIN PASSWORD :'password';
CREATE DATABASE rindle OWNER rindle;
REVOKE CONNECT ON DATABASE temporal, temporal_visibility FROM PUBLIC;
SQL

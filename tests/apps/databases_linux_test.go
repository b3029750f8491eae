// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"strings"
	"testing"
)

// postgres is the beginning of its scripts: D is the cluster. pg_ctl takes a postmaster.pid that a
// killed server has left for the new one's, whose pid is the same, and does not wait for its
// recovery then.
const postgres = `
as() { setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/tmp PATH=/usr/lib/postgresql/15/bin:$PATH PGHOST=/tmp "$@"; }
start() {
	as pg_ctl --pgdata=$D --wait --timeout=600 --log=/tmp/log --options="-k /tmp -c listen_addresses= -c shared_buffers=16MB" \
		start >/dev/null || { cat /tmp/log; exit 1; }
	until as psql -qAtc "select 1" postgres >/dev/null 2>&1; do sleep 0.2; done
}
sql() { as psql -qAtc "$1" postgres; }
D=`

// postgresApp has pgbench run until the container is killed in the middle of it. What was committed
// is there afterwards, and the sums agree.
func postgresApp(place, folder string) app {
	return app{
		name: "postgresql-" + place,
		prepare: func(t *testing.T, g *ground, data string) {
			if strings.HasPrefix(folder, "/data") {
				g.Place.Run(t, "cp", "-a", g.root+"/srv/pg", data+"/pg")
			}
		},
		use: func(_ *testing.T, c *container) string {
			c.sh(postgres + folder + `
start
as pgbench --initialize --init-steps=dtG --quiet postgres 2>/dev/null
(as pgbench --no-vacuum --client=4 --transactions=100000 postgres &) >/dev/null 2>&1
until [ $(sql 'select count(*) from pgbench_history') -ge 100 ]; do sleep 0.2; done`)
			c.again()
			return c.sh(postgres + folder + `
start
sql "select count(*) >= 100, (select sum(abalance) from pgbench_accounts) = sum(delta),
	(select sum(tbalance) from pgbench_tellers) = sum(delta),
	(select sum(bbalance) from pgbench_branches) = sum(delta) from pgbench_history"
as pgbench --no-vacuum --client=4 --transactions=10 postgres | grep -o 'number of transactions actually processed.*'
as pg_ctl --pgdata=$D --mode=fast --wait stop >/dev/null`)
		},
		want: "t|t|t|t\nnumber of transactions actually processed: 40/40",
	}
}

// redisApp increments a number until the container is killed. What was answered is in the log of
// commands.
func redisApp() app {
	const start = `
redis-server --dir /data --appendonly yes --appendfsync always --save '' --daemonize yes --logfile /tmp/log >/dev/null
until redis-cli ping 2>/dev/null | grep -q PONG; do sleep 0.1; done
`
	return app{
		name: "redis",
		use: func(_ *testing.T, c *container) string {
			c.sh(start + `
(seq 1000000 | sed 's/.*/INCR n/' | redis-cli >/data/answers &) </dev/null >/dev/null 2>&1
until [ $(wc -l </data/answers) -ge 300 ]; do sleep 0.1; done`)
			c.again()
			return c.sh(start + `
answered=$(sed '$d' /data/answers | tail -n 1); kept=$(redis-cli get n)
[ "$kept" -ge "$answered" ] && echo kept || echo "$answered was answered, $kept is there"
redis-cli shutdown nosave`)
		},
		want: "kept",
	}
}

// sqliteApp has a database with a write-ahead log, with two writers in each of two containers of a
// pod. They meet in its locks and in the memory that they share.
func sqliteApp() app {
	const script = `
cd /data
for w in %d %d; do
	(until [ -e go ]; do sleep 0.1; done
	i=0
	while [ $i -lt 15 ]; do
		echo "pragma busy_timeout=600000; begin immediate; insert into t values($w, $i); commit;"; i=$((i+1))
	done |
		sqlite3 db >/dev/null 2>err$w; echo $? >code$w) </dev/null >/dev/null 2>&1 &
done`
	return app{
		name: "sqlite",
		use: func(_ *testing.T, c *container) string {
			other := c.beside()
			defer other.remove()
			mode := c.sh("sqlite3 /data/db 'pragma journal_mode=wal; create table t(writer, n)'")
			c.sh(fmt.Sprintf(script, 1, 2))
			other.sh(fmt.Sprintf(script, 3, 4))
			return mode + c.sh(`
cd /data; touch go
until [ -s code1 -a -s code2 -a -s code3 -a -s code4 ]; do sleep 0.1; done
cat err? code?; sqlite3 db 'select count(*), count(distinct writer || n) from t; pragma integrity_check'`) +
				other.sh("sqlite3 /data/db 'select count(*), count(distinct writer) from t'")
		},
		want: "wal\n0\n0\n0\n0\n60|60\nok\n60|4",
	}
}

func databases() []app {
	return []app{postgresApp("volume", "/data/pg"), postgresApp("root", "/srv/pg"), postgresBind(), redisApp(), sqliteApp()}
}

// postgresBind has its cluster in a folder that is bound by itself.
func postgresBind() app {
	a := postgresApp("bind", "/srv/bound")
	a.options = func(data string) []string {
		return []string{"--mount", fmt.Sprintf("type=bind,src=%s/sub/pg,dst=/srv/bound,options=rbind:rw", data)}
	}
	a.prepare = func(t *testing.T, g *ground, data string) {
		g.Place.Run(t, "sh", "-ec", fmt.Sprintf("mkdir %[1]s/sub; cp -a %[2]s/srv/pg %[1]s/sub/pg", data, g.root))
	}
	return a
}

import bitronix.tm.BitronixTransactionManager;
import bitronix.tm.Configuration;
import bitronix.tm.TransactionManagerServices;
import bitronix.tm.Version;
import bitronix.tm.resource.jdbc.PoolingDataSource;
import java.net.URI;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.LongStream;
import javax.transaction.Status;

/**
 * Transfers between two PostgreSQL servers by Bitronix: two XA data sources, a forced log, closed
 * loop. Set here are its log's place and its pools' size; system properties may set more.
 *
 * <p>Arguments: PEER-AS-PRINTED ACCOUNTS CLIENTS[,CLIENTS…] SECONDS WARM_UP_SECONDS LOG_FOLDER;
 * LEFT_URL and RIGHT_URL name the databases. Prints one JSON object a line.
 */
public final class Bitronix {
    private static final String DEBIT =
            "UPDATE presume_bench SET balance = balance - ? WHERE id = ? AND balance >= ?";
    private static final String CREDIT =
            "UPDATE presume_bench SET balance = balance + ? WHERE id = ?";
    private static final long AMOUNT = 100;

    private final String peer;
    private final int accounts;
    private final BitronixTransactionManager transactions;
    private final AtomicBoolean told = new AtomicBoolean();
    private PoolingDataSource left; // As large as the number of clients.
    private PoolingDataSource right;

    private Bitronix(String peer, int accounts, BitronixTransactionManager transactions) {
        this.peer = peer;
        this.accounts = accounts;
        this.transactions = transactions;
    }

    /** What one client saw; latencies are of committed transfers, in nanoseconds. */
    private static final class Seen {
        long[] latencies = new long[1024];
        int committed;
        long declined;
        long failed;
        long ended;

        void commit(long nanoseconds) {
            if (committed == latencies.length) {
                latencies = Arrays.copyOf(latencies, 2 * committed);
            }
            latencies[committed++] = nanoseconds;
        }
    }

    public static void main(String[] args) throws Exception {
        String peer = args[0];
        int accounts = Integer.parseInt(args[1]);
        int[] counts = Arrays.stream(args[2].split(",")).mapToInt(Integer::parseInt).toArray();
        double seconds = Double.parseDouble(args[3]);
        double warmUp = Double.parseDouble(args[4]);
        Path log = Path.of(args[5]);
        Configuration options = TransactionManagerServices.getConfiguration();
        options.setServerId("presume-bench");
        options.setLogPart1Filename(log.resolve("btm1.tlog").toString());
        options.setLogPart2Filename(log.resolve("btm2.tlog").toString());
        BitronixTransactionManager transactions =
                TransactionManagerServices.getTransactionManager();
        try {
            Bitronix bench = new Bitronix(peer, accounts, transactions);
            // Compiled under the load of most clients before one client is measured.
            bench.measure(Arrays.stream(counts).max().orElseThrow(), 0, warmUp);
            for (int clients : counts) {
                System.out.println(bench.measure(clients, seconds, warmUp));
            }
        } finally {
            transactions.shutdown();
        }
    }

    private String measure(int clients, double seconds, double warmUp) throws Exception {
        left = pool("left", System.getenv("LEFT_URL"), clients);
        right = pool("right", System.getenv("RIGHT_URL"), clients);
        try {
            return load(clients, seconds, warmUp);
        } finally {
            left.close();
            right.close();
        }
    }

    private static PoolingDataSource pool(String name, String given, int clients) {
        URI url = URI.create(given);
        if (url.getUserInfo() == null) {
            throw new IllegalArgumentException("the address of " + name + " names no user");
        }
        String[] user = url.getUserInfo().split(":", 2);
        PoolingDataSource pool = new PoolingDataSource();
        pool.setUniqueName(name);
        pool.setClassName("org.postgresql.xa.PGXADataSource");
        pool.setMinPoolSize(clients);
        pool.setMaxPoolSize(clients);
        String query = url.getQuery() == null ? "" : "?" + url.getQuery();
        String address = url.getHost() + ":" + (url.getPort() < 0 ? 5432 : url.getPort());
        pool.getDriverProperties()
                .setProperty("url", "jdbc:postgresql://" + address + url.getPath() + query);
        pool.getDriverProperties().setProperty("user", user[0]);
        if (user.length > 1) {
            pool.getDriverProperties().setProperty("password", user[1]);
        }
        pool.init();
        return pool;
    }

    private String load(int clients, double seconds, double warmUp) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(clients);
        try {
            CyclicBarrier start = new CyclicBarrier(clients + 1);
            List<Future<Seen>> running = new ArrayList<>();
            for (int client = 0; client < clients; client++) {
                running.add(
                        threads.submit(
                                () -> {
                                    loop(warmUp);
                                    start.await();
                                    return loop(seconds);
                                }));
            }
            start.await();
            long started = System.nanoTime();
            List<Seen> all = new ArrayList<>();
            for (Future<Seen> client : running) {
                all.add(client.get());
            }
            return describe(clients, started, all);
        } finally {
            threads.shutdownNow();
        }
    }

    private Seen loop(double seconds) {
        Seen seen = new Seen();
        long until = System.nanoTime() + (long) (seconds * 1e9);
        for (long started; (started = System.nanoTime()) < until; ) {
            try {
                if (transfer()) {
                    seen.commit(System.nanoTime() - started);
                } else {
                    seen.declined++;
                }
            } catch (Exception why) {
                seen.failed++;
                abandon(why);
            }
        }
        seen.ended = System.nanoTime();
        return seen;
    }

    /** False if the guard declined. */
    private boolean transfer() throws Exception {
        ThreadLocalRandom random = ThreadLocalRandom.current();
        String from = "a" + random.nextInt(accounts);
        String to = "a" + random.nextInt(accounts);
        transactions.begin();
        if (update(left, DEBIT, AMOUNT, from, AMOUNT) != 1) {
            transactions.rollback();
            return false;
        }
        if (update(right, CREDIT, AMOUNT, to) != 1) {
            throw new SQLException("no account " + to);
        }
        transactions.commit();
        return true;
    }

    private static int update(PoolingDataSource side, String sql, Object... parameters)
            throws SQLException {
        try (Connection connection = side.getConnection();
                PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) {
                statement.setObject(i + 1, parameters[i]);
            }
            return statement.executeUpdate();
        }
    }

    private void abandon(Exception why) {
        if (told.compareAndSet(false, true)) {
            System.err.println("bitronix: a transfer failed: " + why);
        }
        try {
            if (transactions.getStatus() != Status.STATUS_NO_TRANSACTION) {
                transactions.rollback();
            }
        } catch (Exception again) {
            System.err.println("bitronix: and its rollback: " + again);
        }
    }

    private String describe(int clients, long started, List<Seen> all) {
        long[] latencies =
                all.stream()
                        .flatMapToLong(seen -> LongStream.of(seen.latencies).limit(seen.committed))
                        .sorted()
                        .toArray();
        long ended = all.stream().mapToLong(seen -> seen.ended).max().orElse(started);
        double seconds = (ended - started) / 1e9;
        return String.format(
                Locale.ROOT,
                "{\"peer\": \"%s\", \"version\": \"%s, PostgreSQL JDBC %s, Java %s\","
                        + " \"clients\": %d, \"seconds\": %.3f, \"committed\": %d,"
                        + " \"declined\": %d, \"failed\": %d, \"transfers_per_second\": %.1f,"
                        + " \"p50_ms\": %s, \"p99_ms\": %s}",
                peer,
                Version.getVersion(),
                org.postgresql.util.DriverInfo.DRIVER_VERSION,
                System.getProperty("java.version"),
                clients,
                seconds,
                latencies.length,
                all.stream().mapToLong(seen -> seen.declined).sum(),
                all.stream().mapToLong(seen -> seen.failed).sum(),
                latencies.length / seconds,
                quantile(latencies, 0.5),
                quantile(latencies, 0.99));
    }

    private static String quantile(long[] sorted, double share) {
        if (sorted.length == 0) {
            return "null";
        }
        int index = (int) Math.min(sorted.length - 1, Math.floor(share * sorted.length));
        return String.format(Locale.ROOT, "%.3f", sorted[index] / 1e6);
    }
}

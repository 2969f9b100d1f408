import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Threads and child processes in turn, beside the JVM's own threads; each child is a process of ../main.c that checks itself.
 *
 * <p>It answers on port 7000 as the other services do: `verify` and `exit STATUS`. Nothing is restarted or repaired.
 */
public final class Mixed {
    private static final int TURNS = 4;
    private static final List<AtomicLong> counters = new ArrayList<>();
    private static final List<Process> children = new ArrayList<>();

    private static void startThread() {
        AtomicLong counter = new AtomicLong();
        counters.add(counter);
        Thread thread = new Thread(() -> {
            while (true) {
                counter.incrementAndGet();
                nap();
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    private static void startChild(int port) throws IOException {
        ProcessBuilder builder = new ProcessBuilder("/services/service", "one").inheritIO();
        builder.environment().put("PORT", Integer.toString(port));
        children.add(builder.start());
    }

    private static void nap() {
        try {
            Thread.sleep(10);
        } catch (InterruptedException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    private static boolean goesOn(AtomicLong counter) {
        long before = counter.get();
        for (int tries = 0; tries < 500; tries++, nap()) {
            if (counter.get() >= before + 2) {
                return true;
            }
        }
        return false;
    }

    private static String ask(int port) {
        try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), port)) {
            socket.getOutputStream().write("verify\n".getBytes());
            return new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
        } catch (IOException error) {
            return error.toString();
        }
    }

    private static String verify() {
        if (!counters.stream().allMatch(Mixed::goesOn)) {
            return "error a thread stands still";
        }
        for (int i = 0; i < children.size(); i++) {
            String answer = ask(7001 + i);
            Process child = children.get(i);
            if (!child.isAlive() || answer == null || !answer.startsWith("ok pid=" + child.pid() + " ")) {
                return "error child " + child.pid() + " says " + answer;
            }
        }
        return "ok pid=" + ProcessHandle.current().pid() + " threads=" + counters.size() + " children="
            + children.size() + " count=" + counters.get(0);
    }

    public static void main(String[] arguments) throws IOException {
        for (int turn = 0; turn < TURNS; turn++) {
            startThread();
            startChild(7001 + turn);
        }
        for (int i = 0; i < TURNS; i++) {
            while (!ask(7001 + i).startsWith("ok")) {
                nap();
            }
        }
        ServerSocket listener = new ServerSocket(7000, 16, InetAddress.getLoopbackAddress());
        while (true) {
            try (Socket socket = listener.accept()) {
                String[] words = new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine().split(" ");
                if (words[0].equals("exit")) {
                    socket.getOutputStream().write("ok\n".getBytes());
                    Runtime.getRuntime().halt(Integer.parseInt(words[1]));
                }
                socket.getOutputStream().write((verify() + "\n").getBytes());
            }
        }
    }
}

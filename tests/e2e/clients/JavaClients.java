// The HTTP clients of Java components, through a proxy: the JDK's own and OkHttp.
//
//     java -cp okhttp.jar:okio.jar JavaClients.java jdk|okhttp PROXY-HOST PROXY-PORT CA-FILE URL [USER PASSWORD]
//
// Prints the status on one line and then the body, or the exception on one line after "failed".

import java.io.FileInputStream;
import java.net.Authenticator;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;
import okhttp3.Credentials;
import okhttp3.OkHttpClient;
import okhttp3.Request;

public class JavaClients {
    public static void main(String[] args) throws Exception {
        InetSocketAddress proxy = new InetSocketAddress(args[1], Integer.parseInt(args[2]));
        TrustManagerFactory trust = trust(args[3]);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, trust.getTrustManagers(), null);
        String user = args.length > 5 ? args[5] : null;
        String password = args.length > 6 ? args[6] : null;
        try {
            if (args[0].equals("jdk")) {
                jdk(proxy, tls, args[4], user, password);
            } else {
                okhttp(proxy, tls, (X509TrustManager) trust.getTrustManagers()[0], args[4], user, password);
            }
        } catch (java.io.IOException error) {
            System.out.println("failed " + error.getMessage());
        }
        System.exit(0);
    }

    private static TrustManagerFactory trust(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream in = new FileInputStream(file)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        return trust;
    }

    private static void jdk(InetSocketAddress proxy, SSLContext tls, String url, String user, String password)
            throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder()
                .proxy(ProxySelector.of(proxy)).sslContext(tls).connectTimeout(Duration.ofSeconds(20));
        if (user != null) {
            builder.authenticator(new Authenticator() {
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {
                    return new PasswordAuthentication(user, password.toCharArray());
                }
            });
        }
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(20)).build();
        HttpResponse<String> answer = builder.build().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + "\n" + answer.body());
    }

    private static void okhttp(InetSocketAddress proxy, SSLContext tls, X509TrustManager trust, String url, String user,
            String password) throws Exception {
        OkHttpClient.Builder builder = new OkHttpClient.Builder()
                .proxy(new Proxy(Proxy.Type.HTTP, proxy)).sslSocketFactory(tls.getSocketFactory(), trust)
                .connectTimeout(20, TimeUnit.SECONDS).readTimeout(20, TimeUnit.SECONDS);
        if (user != null) {
            // Asked on a 407, on the same connection.
            builder.proxyAuthenticator((route, response) ->
                    response.request().header("Proxy-Authorization") != null ? null
                            : response.request().newBuilder()
                                    .header("Proxy-Authorization", Credentials.basic(user, password)).build());
        }
        try (okhttp3.Response answer = builder.build().newCall(new Request.Builder().url(url).build()).execute()) {
            System.out.println(answer.code() + "\n" + answer.body().string());
        }
    }
}

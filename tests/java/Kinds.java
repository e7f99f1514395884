import com.google.protobuf.ByteString;
import com.google.protobuf.ListValue;
import com.google.protobuf.Struct;
import com.google.protobuf.Timestamp;
import com.google.protobuf.Value;
import headrace.typed.kinds.KindsPredictorGrpc;
import headrace.typed.kinds.KindsRow;
import headrace.typed.notes.NotesPredictorGrpc;
import headrace.typed.notes.NotesRequest;
import headrace.typed.towers.Float32Tensor;
import headrace.typed.towers.TowersPredictorGrpc;
import headrace.typed.towers.TowersRequest;
import headrace.typed.towers.TowersResponse;
import headrace.typed.weigher.WeigherParams;
import headrace.typed.weigher.WeigherPrediction;
import headrace.typed.weigher.WeigherPredictorGrpc;
import headrace.typed.weigher.WeigherRow;
import io.grpc.Channel;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** Every kind of field, by the services of four models: java Kinds ADDRESS. */
public class Kinds {
  private static final Timestamp MOMENT =
      Timestamp.newBuilder().setSeconds(1_714_979_289).setNanos(500_000_000).build();
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  public static void main(String[] arguments) throws InterruptedException {
    ManagedChannel channel =
        Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
    parameters(channel);
    optional(channel);
    messages(channel);
    tensors(channel);
    channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
  }

  private static void parameters(Channel channel) {
    var client =
        WeigherPredictorGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
    WeigherRow row = WeigherRow.newBuilder().setLength(1).setCount(3).build();
    WeigherPrediction plain = client.predictRow(row);
    OUT.println("plain: " + plain.getTotal() + " " + plain.getLabel());
    WeigherParams params = WeigherParams.newBuilder()
        .setScale(10).addTags("x").addTags("y").setSince(MOMENT).build();
    WeigherPrediction given = client.predictRow(row.toBuilder().setParams(params).build());
    OUT.println("given: " + given.getTotal() + " " + given.getLabel());
  }

  private static void optional(Channel channel) {
    var client =
        NotesPredictorGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
    NotesRequest request = NotesRequest.newBuilder()
        .addSize(1.5).addSize(2)
        .addPath(headrace.typed.notes.DoubleArray.newBuilder().addValues(1).addValues(2.5))
        .addPath(headrace.typed.notes.DoubleArray.newBuilder().setIsNull(true))
        .build();
    OUT.println("optional: " + client.predict(request).getOutput0List());
  }

  private static void messages(Channel channel) {
    var client =
        KindsPredictorGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
    Struct owner = Struct.newBuilder()
        .putFields("id", Value.newBuilder().setNumberValue(7).build())
        .putFields("seen", text("2024-05-06T07:08:09"))
        .putFields("tags", Value.newBuilder().setListValue(
            ListValue.newBuilder().addValues(text("x")).addValues(text("ß"))).build())
        .build();
    Struct flags = Struct.newBuilder()
        .putFields("a", Value.newBuilder().setBoolValue(true).build())
        .putFields("b", Value.newBuilder().setBoolValue(false).build())
        .build();
    KindsRow row = KindsRow.newBuilder()
        .setAt(MOMENT)
        .setRaw(ByteString.copyFrom(new byte[] {0, -1}))
        .setSmall(1.5f)
        .setPath(headrace.typed.kinds.DoubleArray.newBuilder().addValues(1.5).addValues(-2))
        .setOwner(Value.newBuilder().setStructValue(owner))
        .setFlags(Value.newBuilder().setStructValue(flags))
        .build();
    OUT.println("messages: " + client.predictRow(row).getOutput0());
  }

  private static Value text(String text) {
    return Value.newBuilder().setStringValue(text).build();
  }

  private static void tensors(Channel channel) {
    var client =
        TowersPredictorGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
    List<Float> left = List.of(1f, 2f, 3f, 4f, 5f, 6f, 7f, 8f);
    List<Float> right = List.of(1f, 2f, 3f, 4f);
    TowersResponse byValues = client.predict(TowersRequest.newBuilder()
        .setLeft(tensor(2, 4).addAllValues(left))
        .setRight(tensor(2, 2).addAllValues(right))
        .build());
    OUT.println("values: " + byValues.getScoreList() + " " + byValues.getHidden().getShapeList()
        + " " + byValues.getHidden().getValuesList());
    TowersResponse byRaw = client.predict(TowersRequest.newBuilder()
        .setLeft(tensor(2, 4).setRaw(packed(left)))
        .setRight(tensor(2, 2).setRaw(packed(right)))
        .build());
    OUT.println("raw: " + byRaw.getScoreList() + " " + byRaw.getHidden().getShapeList()
        + " " + unpacked(byRaw.getHidden().getRaw()));
  }

  private static Float32Tensor.Builder tensor(long... shape) {
    var made = Float32Tensor.newBuilder();
    for (long size : shape) {
      made.addShape(size);
    }
    return made;
  }

  private static ByteString packed(List<Float> values) {
    ByteBuffer raw = ByteBuffer.allocate(4 * values.size()).order(ByteOrder.LITTLE_ENDIAN);
    values.forEach(raw::putFloat);
    return ByteString.copyFrom(raw.flip());
  }

  private static List<Float> unpacked(ByteString raw) {
    FloatBuffer values =
        raw.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
    var found = new java.util.ArrayList<Float>();
    while (values.hasRemaining()) {
      found.add(values.get());
    }
    return found;
  }
}

import headrace.typed.iris.IrisPrediction;
import headrace.typed.iris.IrisPredictorGrpc;
import headrace.typed.iris.IrisRequest;
import headrace.typed.iris.IrisResponse;
import headrace.typed.iris.IrisRow;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.util.List;
import java.util.concurrent.TimeUnit;

public class Ask {
  public static void main(String[] arguments) throws InterruptedException {
    ManagedChannel channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create())
        .defaultLoadBalancingPolicy("round_robin")
        .build();
    var predictor = IrisPredictorGrpc.newBlockingStub(channel);

    IrisRow row = IrisRow.newBuilder()
        .setSepalLength(5.1).setSepalWidth(3.5).setPetalLength(1.4).setPetalWidth(0.2)
        .build();
    IrisPrediction one = predictor.withDeadlineAfter(10, TimeUnit.SECONDS).predictRow(row);
    System.out.println("one row: " + one.getOutput0() + " by version " + one.getModelVersion());

    IrisResponse several = predictor.withDeadlineAfter(10, TimeUnit.SECONDS).predict(
        IrisRequest.newBuilder()
            .addAllSepalLength(List.of(5.1, 6.0)).addAllSepalWidth(List.of(3.5, 3.0))
            .addAllPetalLength(List.of(1.4, 5.0)).addAllPetalWidth(List.of(0.2, 2.0))
            .build());
    System.out.println("two rows: " + several.getOutput0List());

    try {
      predictor.withDeadlineAfter(10, TimeUnit.SECONDS)
          .predictRow(row.toBuilder().clearPetalWidth().build());
    } catch (StatusRuntimeException refusal) {
      System.out.println("refused: " + refusal.getStatus().getCode() + " "
          + refusal.getStatus().getDescription());
    }
    channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
  }
}
